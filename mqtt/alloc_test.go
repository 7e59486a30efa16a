package mqtt

import (
	"bytes"
	"slices"
	"testing"
)

// work is one step of the hot path, repeatable.
type work struct {
	name string
	size int // bytes read or written
	do   func() error
}

// publishes are the PUBLISH packets that the hot path sees.
func publishes() []struct {
	name    string
	version Version
	packet  Publish
} {
	payload := bytes.Repeat([]byte("x"), 128)
	topic := []byte("d/product/device-0001/telemetry")
	plain := Publish{Topic: topic, Payload: payload}
	acked := Publish{Topic: topic, Payload: payload, QoS: AtLeastOnce, PacketID: 7}
	alias := Publish{Payload: payload, HasAlias: true, Alias: 3}
	props := Publish{
		Topic: topic, Payload: payload, QoS: AtLeastOnce, PacketID: 7, HasExpiry: true, Expiry: 60, IDs: []uint32{1, 200},
		Props: Properties{}.WithInt(PayloadFormatIndicator, 1).WithString(ContentType, "application/json").WithString(CorrelationData, "12345678"),
	}
	user := acked
	for range 8 {
		user.Props = user.Props.WithUser("key of a property", "its value")
	}
	return []struct {
		name    string
		version Version
		packet  Publish
	}{
		{"v3 QoS 0", V311, plain}, {"v3 QoS 1", V311, acked}, {"v5 QoS 0", V5, plain}, {"v5 QoS 1", V5, acked},
		{"v5 alias", V5, alias}, {"v5 properties", V5, props}, {"v5 user properties", V5, user},
	}
}

// publishWork parses and appends each of them. Parse may move bytes, so it gets a fresh copy, in an array of its own.
func publishWork() (ws []work) {
	for _, c := range publishes() {
		b := c.packet.Append(nil, c.version)
		parsed := Publish{IDs: make([]uint32, 0, 2)}
		buf, out := slices.Clone(b), make([]byte, 0, len(b))
		ws = append(ws,
			work{"parse " + c.name, len(b), func() error {
				copy(buf, b)
				f, _, err := ParseFrame(buf, c.version, MaxPacket)
				if err != nil {
					return err
				}
				return parsed.Parse(f, c.version)
			}},
			work{"append " + c.name, len(b), func() error { out = c.packet.Append(out[:0], c.version); return nil }},
		)
	}
	return ws
}

// ackWork does the same with acknowledgements.
func ackWork() (ws []work) {
	for _, g := range ackGoldens {
		v := g.versions[len(g.versions)-1]
		b, packet := hex(g.wire), *g.packet.(*Ack)
		var parsed Ack
		out := make([]byte, 0, len(b))
		name := packet.Type.String() + " " + g.name
		ws = append(ws,
			work{"parse " + name, len(b), func() error {
				f, _, err := ParseFrame(b, v, MaxPacket)
				if err != nil {
					return err
				}
				return parsed.Parse(f, v)
			}},
			work{"append " + name, len(b), func() error { out = packet.Append(out[:0], v); return nil }},
		)
	}
	return ws
}

// batchWork finds the frames of a read buffer of 64 KiB.
func batchWork() work {
	one := publishes()[0].packet.Append(nil, V311)
	buf := bytes.Repeat(one, 65_536/len(one))
	return work{"frames of a batch", len(buf), func() error {
		for rest := buf; len(rest) > 0; {
			_, size, err := ParseFrame(rest, V311, MaxPacket)
			if err != nil {
				return err
			}
			rest = rest[size:]
		}
		return nil
	}}
}

// The hot path allocates nothing.
func TestNoAllocations(t *testing.T) {
	for _, w := range slices.Concat(publishWork(), ackWork(), []work{batchWork()}) {
		var err error
		if n := testing.AllocsPerRun(100, func() { err = w.do() }); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, error %v", w.name, n, err)
		}
	}
}

func BenchmarkPublish(b *testing.B) { benchmark(b, publishWork()) }

func BenchmarkAck(b *testing.B) { benchmark(b, ackWork()) }

func BenchmarkFrames(b *testing.B) { benchmark(b, []work{batchWork()}) }

func benchmark(b *testing.B, ws []work) {
	for _, w := range ws {
		b.Run(w.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(w.size))
			for b.Loop() {
				if err := w.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
