//go:build !race

package broker

import (
	"fmt"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// A QoS 0 message costs no allocation on its way from one connection to many, whatever their versions and options. (The race
// detector makes pools forget, so this is not tested under it.)
func TestNoAllocationPerMessage(t *testing.T) {
	for name, subs := range map[string][]mqtt.Subscription{
		"one filter":          {sub("a/b", 0)},
		"wildcards":           {sub("a/+", 2)},
		"overlapping filters": {sub("a/+", 1), sub("a/b", 0), sub("#", 0)},
		"shared":              {sub("$share/g/a/+", 0)},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHotRig(t)
			pub := h.client(mqtt.V5, "p")
			for i := range 100 {
				h.client(versions[i%3], fmt.Sprint("s", i), subs...)
			}
			packet := publishBytes(post("a/b", "0123456789abcdef", 0), mqtt.V5)
			before := h.b.Stats().MessagesSent[0]
			const runs = 200
			if n := testing.AllocsPerRun(runs, func() { h.feed(pub, packet) }); n != 0 {
				t.Errorf("%v allocations per message", n)
			}
			want := int64(100 * (runs + 1))
			if subs[0].Filter[0] == '$' {
				want = runs + 1
			}
			if sent := h.b.Stats().MessagesSent[0] - before; sent != want {
				t.Errorf("%d messages sent, want %d", sent, want)
			}
		})
	}
}

// Topic Aliases and several topics cost none either.
func TestNoAllocationPerTopic(t *testing.T) {
	h := newHotRig(t)
	pub := h.client(mqtt.V5, "p")
	h.client(mqtt.V5, "s", sub("a/#", 0))
	var batch []byte
	for i := range 20 {
		m := mqtt.Publish{Topic: []byte(fmt.Sprint("a/", i)), HasAlias: true, Alias: uint16(i + 1), Payload: []byte("x")}
		h.feed(pub, publishBytes(m, mqtt.V5))
		m.Topic = nil
		batch = m.Append(batch, mqtt.V5)
		batch = append(batch, publishBytes(post(fmt.Sprint("a/", i), "y", 0), mqtt.V5)...)
	}
	read := make([]byte, len(batch)) // processing moves properties, so each time begins with a copy
	if n := testing.AllocsPerRun(100, func() { copy(read, batch); h.feed(pub, read) }); n != 0 {
		t.Errorf("%v allocations for 40 messages", n)
	}
}
