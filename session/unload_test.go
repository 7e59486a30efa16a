package session

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// twin is an Outbound whose messages are let go of between connections, beside one whose are not, which it must not differ from.
type twin struct {
	t      *testing.T
	seed   uint64
	plain  Outbound
	out    Outbound
	store  map[uint64]Delivery
	last   uint64
	inMind []uint16 // identifiers in flight, as a client knows them
}

func (w *twin) push(rnd *rand.Rand) {
	w.last++
	d := message(int(w.last), mqtt.QoS(1+rnd.IntN(2)))
	d.Retain = rnd.IntN(2) == 0
	if rnd.IntN(4) > 0 {
		d.Position = w.last
		w.store[w.last] = d
	}
	w.plain.Push(Delivery{Message: d.Message, QoS: d.QoS, Retain: d.Retain}) // without a position nothing of it is let go of
	w.out.Push(d)
}

// loaded returns what the store has.
func (w *twin) loaded(p Place) Delivery {
	d := w.store[p.Position]
	if d.Message == nil || d.QoS != mqtt.QoS(p.QoS) || d.Retain != p.Retain {
		w.t.Fatalf("seed %d: place %+v of %+v", w.seed, p, d)
	}
	return d
}

// send sends all that the window allows, the same from both.
func (w *twin) send() {
	w.out.Committed(1 << 40)
	for {
		var ds []Delivery
		for _, p := range w.out.Places(8, nil) {
			ds = append(ds, w.loaded(p))
		}
		w.out.Loaded(ds)
		wantID, want, wantDup, wantOK := w.plain.Next()
		id, d, dup, ok := w.out.Next()
		if id != wantID || dup != wantDup || ok != wantOK || !same(d, want) || d.Retain != want.Retain {
			w.t.Fatalf("seed %d: Next: %d %+v %v %v, want %d %+v %v %v", w.seed, id, d, dup, ok, wantID, want, wantDup, wantOK)
		}
		if !ok {
			return
		}
		if !dup {
			w.inMind = append(w.inMind, id)
		}
	}
}

// acknowledge takes one step of a handshake.
func (w *twin) acknowledge(rnd *rand.Rand) {
	if len(w.inMind) == 0 {
		return
	}
	i := rnd.IntN(len(w.inMind))
	id := w.inMind[i]
	if _, known, err := w.plain.Acknowledge(id); known && err == nil {
		_, _, _ = w.out.Acknowledge(id)
		w.inMind = slices.Delete(w.inMind, i, i+1)
		return
	}
	if known, err := w.plain.Complete(id); known && err == nil {
		_, _ = w.out.Complete(id)
		w.inMind = slices.Delete(w.inMind, i, i+1)
		return
	}
	_, _, _ = w.plain.Received(id, mqtt.Success)
	_, _, _ = w.out.Received(id, mqtt.Success)
}

// away ends the connection: one lets go of its messages, and gets them back for the next connection.
func (w *twin) away(rnd *rand.Rand) {
	for range rnd.IntN(3) {
		w.out.Unload()
		for range rnd.IntN(3) {
			w.push(rnd)
		}
	}
	for id, position := range w.out.Missing() {
		w.out.Fill(id, w.store[position])
	}
	window := 1 + rnd.IntN(200)
	w.plain.Connected(window)
	w.out.Connected(window)
}

func (w *twin) check() {
	n, bytes := w.out.Queued()
	wantN, wantBytes := w.plain.Queued()
	flying, flyingBytes := w.out.InFlight()
	wantFlying, wantFlyingBytes := w.plain.InFlight()
	if n != wantN || bytes != wantBytes || flying != wantFlying || flyingBytes != wantFlyingBytes {
		w.t.Fatalf("seed %d: queued %d (%d bytes), in flight %d (%d bytes); want %d (%d), %d (%d)",
			w.seed, n, bytes, flying, flyingBytes, wantN, wantBytes, wantFlying, wantFlyingBytes)
	}
	if held, stored := w.out.Held(), w.out.Stored(); stored < 0 || stored > held || held > bytes+flyingBytes {
		w.t.Fatalf("seed %d: holds %d bytes of %d, %d of them twice", w.seed, held, bytes+flyingBytes, stored)
	}
	if broken := broken(&w.out); broken != "" {
		w.t.Fatalf("seed %d: %s", w.seed, broken)
	}
}

// Whatever is let go of between connections, what is sent is the same.
func TestUnloadRandom(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		w := &twin{t: t, seed: seed, store: make(map[uint64]Delivery)}
		w.away(rnd)
		for range 300 {
			switch n := rnd.IntN(20); {
			case n < 9:
				w.push(rnd)
			case n < 13:
				w.send()
			case n < 19:
				w.acknowledge(rnd)
			default:
				w.away(rnd)
			}
			w.check()
		}
	}
}

// After Unload nothing is held that the store has, and all the rest is.
func TestUnloadFrees(t *testing.T) {
	var o Outbound
	o.Connected(2)
	size := 0
	for i := range 5 {
		d := message(i, mqtt.AtLeastOnce)
		if d.Position = uint64(i % 3); d.Position == 0 {
			size += d.Size()
		}
		o.Push(d)
	}
	for range 2 {
		o.Next()
	}
	_, queued := o.Queued()
	_, flying := o.InFlight()
	if o.Held() != queued+flying || o.Stored() != queued+flying-size {
		t.Errorf("holds %d and %d of them twice, want %d, %d", o.Held(), o.Stored(), queued+flying, queued+flying-size)
	}
	o.Unload()
	if o.Held() != size || o.Stored() != 0 {
		t.Errorf("holds %d bytes after Unload, %d of them twice, want %d, 0", o.Held(), o.Stored(), size)
	}
	o.PushAside(Delivery{Message: message(9, 1).Message, QoS: 1, Position: 9})
	if o.Held() != size {
		t.Errorf("holds %d bytes after PushAside, want %d", o.Held(), size)
	}
}
