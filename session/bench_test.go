package session

import (
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// The ways of a message through a session, one at a time.
var ways = []struct {
	name string
	run  func() func()
}{
	{"Send Acknowledge", func() func() {
		var o Outbound
		o.Connected(20)
		return func() { o.Acknowledge(o.Send(one)) }
	}},
	{"Send Acknowledge, window open", func() func() {
		var o Outbound
		o.Connected(20)
		first := o.Send(one)
		for range 9 {
			o.Send(one)
		}
		return func() {
			o.Send(one)
			o.Acknowledge(first)
			first = max(1, first+1)
		}
	}},
	{"Push Next Acknowledge", func() func() {
		var o Outbound
		o.Connected(20)
		return func() {
			o.Push(one)
			id, _, _, _ := o.Next()
			o.Acknowledge(id)
		}
	}},
	{"Push Next Acknowledge, long queue", func() func() {
		var o Outbound
		o.Connected(20)
		for range 1000 {
			o.Push(one)
		}
		return func() {
			o.Push(one)
			id, _, _, _ := o.Next()
			o.Acknowledge(id)
		}
	}},
	{"Send Received Complete", func() func() {
		var o Outbound
		d := message(1, q2)
		o.Connected(20)
		return func() {
			id := o.Send(d)
			o.Received(id, mqtt.Success)
			o.Complete(id)
		}
	}},
	{"Receive Acknowledged", func() func() {
		var in Inbound
		p := &mqtt.Publish{QoS: q1, PacketID: 1}
		in.Connected(20)
		return func() {
			in.Receive(p)
			in.Acknowledged()
		}
	}},
	{"Receive Release", func() func() {
		var in Inbound
		p := &mqtt.Publish{QoS: q2}
		in.Connected(20)
		return func() {
			p.PacketID++
			in.Receive(p)
			in.Release(p.PacketID)
		}
	}},
	{"AliasesOut Use", func() func() {
		var a AliasesOut
		a.Reset(1)
		return func() { a.Use("a/b") }
	}},
	{"AliasesIn Get", func() func() {
		var a AliasesIn
		a.Reset(1)
		a.Set(1, "a/b")
		return func() { a.Get(1) }
	}},
}

// A message that passes through costs no allocation.
func TestNoAllocation(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			run := way.run()
			for range 100 {
				run() // the tables find their size
			}
			if n := testing.AllocsPerRun(1000, run); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

func BenchmarkWays(b *testing.B) {
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			run := way.run()
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}

// The price of an identifier when a peer stalls nearly all of a large window, so that Send has to look for a free one.
func BenchmarkSendStalled(b *testing.B) {
	for _, window := range []struct {
		name string
		size int
	}{{"window 1024", 1024}, {"window 8192", 8192}, {"window 32768", 32768}} {
		b.Run(window.name, func(b *testing.B) {
			var o Outbound
			o.Connected(window.size)
			for range window.size - 1 {
				o.Send(one)
			}
			for b.Loop() {
				o.Acknowledge(o.Send(one))
			}
		})
	}
}

// A reconnection with everything in flight.
func BenchmarkResend(b *testing.B) {
	var o Outbound
	o.Connected(1000)
	for range 1000 {
		o.Send(one)
	}
	for b.Loop() {
		o.Connected(1000)
		for range 1000 {
			o.Next()
		}
	}
}
