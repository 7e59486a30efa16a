package store

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

func text(r *rand.Rand, most int) string {
	b := make([]byte, r.IntN(most))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func randomMessage(r *rand.Rand) *mqtt.Message {
	m := &mqtt.Message{
		Topic: text(r, 20), Publisher: text(r, 10), QoS: mqtt.QoS(r.IntN(3)), Retain: r.IntN(2) == 0,
		Payload: []byte(text(r, 50)), Props: mqtt.Properties(text(r, 30)),
	}
	if r.IntN(2) == 0 {
		m.Expires = time.UnixMilli(r.Int64N(1 << 42))
	}
	return m
}

func randomInts[N uint16 | uint32](r *rand.Rand) (ns []N) {
	for range r.IntN(4) {
		ns = append(ns, N(r.Uint32()))
	}
	return ns
}

func randomRecipients(r *rand.Rand) (rs []Recipient) {
	for range r.IntN(4) {
		to := Recipient{Session: SessionID(r.Uint64()), QoS: mqtt.QoS(r.IntN(3)), Retain: r.IntN(2) == 0}
		if r.IntN(2) == 0 {
			to.IDs, to.Share = randomInts[uint32](r), text(r, 20)
		}
		rs = append(rs, to)
	}
	return rs
}

func randomRefs(r *rand.Rand) (refs []Ref) {
	for range r.IntN(5) {
		refs = append(refs, Ref{
			About: Position(r.Uint64() >> 2), QoS: mqtt.QoS(r.IntN(3)), Retain: r.IntN(2) == 0, Shared: r.IntN(2) == 0,
			PacketID: uint16(r.Uint32()), Received: r.IntN(2) == 0,
		})
	}
	return refs
}

// randomRecord returns a record in which every field that its kind has is set to something.
func randomRecord(r *rand.Rand, k Kind) Record {
	x := Record{Kind: k, Session: SessionID(r.Uint64())}
	switch k {
	case Session:
		x.ClientID, x.Owner, x.Version = text(r, 20), text(r, 20), mqtt.Version(r.IntN(6))
		x.Time, x.Expiry = time.UnixMilli(1+r.Int64N(1<<42)), time.Duration(r.Int64())
		if r.IntN(2) == 0 {
			x.Will = &Will{Message: randomMessage(r), Expiry: time.Duration(r.Int64()), Delay: time.Duration(r.Int64())}
		}
	case Left:
		x.Time, x.Expiry = time.UnixMilli(1+r.Int64N(1<<42)), -1
	case Subscribed:
		x.Subscription = mqtt.Subscription{
			Filter: text(r, 20), QoS: mqtt.QoS(r.IntN(3)), NoLocal: r.IntN(2) == 0, RetainAsPublished: r.IntN(2) == 0,
			RetainHandling: mqtt.RetainHandling(r.IntN(3)),
		}
		x.IDs = randomInts[uint32](r)
	case Unsubscribed:
		x.Subscription.Filter = text(r, 20)
	case Accepted:
		x.PacketID, x.Recipients, x.Message = uint16(r.Uint32()), randomRecipients(r), randomMessage(r)
	case Moved:
		x.About, x.Recipients, x.Message = Position(r.Uint64()), randomRecipients(r), randomMessage(r)
	case Done:
		x.About = Position(r.Uint64())
	case Sent, Received, Completed:
		x.About, x.PacketID = Position(r.Uint64()), uint16(r.Uint32())
	case Released:
		x.PacketID = uint16(r.Uint32())
	case Queue:
		x.Bytes, x.Refs = r.Int64N(1<<40), randomRefs(r)
	case Retained:
		x.Refs = randomRefs(r)
	case Inbound:
		x.PacketIDs = randomInts[uint16](r)
	}
	return x
}

// TestRecordRoundTrip: what is appended parses to the same record, and cut at any byte to an error.
func TestRecordRoundTrip(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		k := Kind(1 + seed%uint64(Retained))
		want := randomRecord(r, k)
		b := want.Append(nil)
		var got Record
		if err := got.Parse(k, b); err != nil {
			t.Fatalf("seed %d: kind %d: %v", seed, k, err)
		}
		if empty(want.Message) {
			continue
		}
		if !reflect.DeepEqual(normal(got), normal(want)) {
			t.Fatalf("seed %d: kind %d:\ngot  %+v\nwant %+v", seed, k, got, want)
		}
		for n := range b {
			if err := got.Parse(k, b[:n]); err == nil {
				t.Fatalf("seed %d: kind %d: no error when cut to %d of %d bytes", seed, k, n, len(b))
			}
		}
		if err := got.Parse(k, append(b, 0)); err == nil {
			t.Fatalf("seed %d: kind %d: no error with a byte too many", seed, k)
		}
	}
}

func empty(m *mqtt.Message) bool { return m != nil && len(m.Payload) == 0 }

// normal makes empty and nil slices equal.
func normal(r Record) Record {
	fix := func(m *mqtt.Message) *mqtt.Message {
		if m == nil {
			return nil
		}
		c := *m
		c.Payload, c.Props = append([]byte{}, m.Payload...), append(mqtt.Properties{}, m.Props...)
		return &c
	}
	r.Message = fix(r.Message)
	if r.Will != nil {
		w := *r.Will
		w.Message = fix(w.Message)
		r.Will = &w
	}
	return r
}

// FuzzRecord: no bytes make it panic, and what parses is appended as something that parses to the same.
func FuzzRecord(f *testing.F) {
	for seed := range uint64(64) {
		r := rand.New(rand.NewPCG(seed, 2))
		x := randomRecord(r, Kind(1+seed%uint64(Retained)))
		f.Add(byte(x.Kind), x.Append(nil))
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		var r, again Record
		if r.Parse(Kind(kind), b) != nil {
			return
		}
		if err := again.Parse(Kind(kind), r.Append(nil)); err != nil {
			t.Fatalf("kind %d: %x: %v", kind, b, err)
		}
		if !reflect.DeepEqual(normal(r), normal(again)) {
			t.Fatalf("kind %d: %x:\n%+v\n%+v", kind, b, r, again)
		}
	})
}
