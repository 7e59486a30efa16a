package loadgen

import (
	"errors"
	"runtime"
)

// errTimeout is of a connection whose broker does not answer.
var errTimeout = errors.New("no answer in time")

// Report is what a run has shown. Rates, latencies and processor times are those of the measured time, counts those of the whole run.
type Report struct {
	Connections Connections `json:"connections"`

	Seconds  float64 `json:"seconds"`            // the measured time
	Sent     uint64  `json:"sent"`               // messages published
	Acked    uint64  `json:"acked"`              // of QoS 1 and 2, those whose handshake is complete
	Refused  uint64  `json:"refused"`            // those that the broker has refused
	Expected uint64  `json:"expected,omitempty"` // deliveries that subscribers should have seen
	Received uint64  `json:"received"`           // those that they have seen, each once

	Lost       uint64 `json:"lost"`         // deliveries that did not come; without publishers, gaps in what came
	LostAcked  uint64 `json:"lost_acked"`   // of those, as many as must be of acknowledged messages (subscriptions of QoS 1 and 2)
	Duplicated uint64 `json:"duplicated"`   // deliveries that came again
	OutOfOrder uint64 `json:"out_of_order"` // deliveries that came after a later one of their publisher
	Foreign    uint64 `json:"foreign"`      // messages that are not of this run; without publishers, without a stamp
	Stalls     uint64 `json:"stalls"`       // how often a window was opened by force because nothing came for a second
	Throttled  uint64 `json:"throttled"`    // how often a message that was due had to wait because no publisher could send

	SentRate     float64 `json:"sent_per_s"`
	ReceivedRate float64 `json:"received_per_s"`
	BytesOut     float64 `json:"bytes_out_per_s"` // to the broker, everything included
	BytesIn      float64 `json:"bytes_in_per_s"`  // from it

	Latency Latency `json:"latency_us"` // from publisher to subscriber
	Ack     Latency `json:"ack_us"`     // from PUBLISH to PUBACK or PUBCOMP

	Generator Generator `json:"generator"`
	Broker    *Usage    `json:"broker,omitempty"`
}

// Connections is how connecting went.
type Connections struct {
	Wanted      int            `json:"wanted"`
	Connected   int            `json:"connected"` // with CONNACK, and SUBACK if there is a subscription
	Failed      int            `json:"failed"`
	Failures    map[string]int `json:"failures,omitempty"` // by reason
	Err         error          `json:"-"`                  // why the first of those failed; nil if none did
	Lost        int            `json:"lost"`               // connections that ended before the run did
	Losses      map[string]int `json:"losses,omitempty"`   // by reason
	Seconds     float64        `json:"seconds"`            // until all were there
	PerSecond   float64        `json:"per_s"`
	ConnackTime Latency        `json:"connack_us"` // from the time a connection was due to its CONNACK
}

// Generator is what the load has cost on this side.
type Generator struct {
	Loops int     `json:"loops"`
	Busy  float64 `json:"busy"`  // fraction of the measured time in which loops did not wait, or of the processors that goroutines used; 0 to 1
	CPU   float64 `json:"cpu"`   // processors used by this process
	Limit bool    `json:"limit"` // whether the generator was what limited the throughput
	Core  string  `json:"core"`  // epoll or goroutines
}

// busyLimit is how busy a loop is that may be the limit.
const busyLimit = 0.9

// report adds everything up. The loops have come to rest.
func (d *director) report() *Report {
	c := d.count()
	seconds := max(float64(d.until-d.from)/1e9, 1e-9)
	r := &Report{
		Connections: d.connections(&c), Sent: c.sent, Acked: c.acked, Refused: c.refused, Expected: c.expected, Received: c.unique,
		Duplicated: c.duplicated, OutOfOrder: c.outOfOrder, Foreign: c.foreign, Stalls: c.stalls, Throttled: c.throttled,
		Generator: Generator{Loops: d.plan.Loops, Core: "epoll"},
	}
	if !d.plan.raw() {
		r.Generator.Core = "goroutines"
	}
	d.losses(r, &c)
	if d.from == 0 {
		return r
	}
	before, after := &d.before, &d.after
	rate := func(after, before uint64) float64 { return float64(after-before) / seconds }
	r.Seconds = seconds
	r.SentRate, r.ReceivedRate = rate(after.sent, before.sent), rate(after.unique+after.foreign, before.unique+before.foreign)
	r.BytesOut, r.BytesIn = rate(after.bytesOut, before.bytesOut), rate(after.bytesIn, before.bytesIn)
	var latency, acks histogram
	d.each(func(l *loop) {
		latency.merge(&l.latency)
		acks.merge(&l.acks)
	})
	r.Latency, r.Ack = latency.latency(), acks.latency()
	whole := max(float64(d.stopped-d.from)/1e9, 1e-9)
	r.Generator.Busy = max(0, 1-float64(d.waited)/1e9/whole/float64(d.plan.Loops))
	r.Generator.CPU = (d.ownAfter - d.ownBefore).Seconds() / whole
	if !d.plan.raw() { // the loops leave most of the work to others
		r.Generator.Busy = max(r.Generator.Busy, r.Generator.CPU/float64(runtime.GOMAXPROCS(0)))
	}
	r.Generator.Limit = r.Generator.Busy >= busyLimit
	r.Broker = d.broker.usage(whole, after.delivered()-before.delivered(), r.Connections.Connected)
	return r
}

// delivered is the number of messages that the broker's costs are shared out to.
func (c *counters) delivered() uint64 {
	if n := c.unique + c.foreign; n > 0 {
		return n
	}
	return c.sent
}

func (d *director) connections(c *counters) Connections {
	var h histogram
	d.each(func(l *loop) { h.merge(&l.connacks) })
	seconds := max(float64(d.connectUntil-d.connectFrom)/1e9, 1e-9)
	var first error
	d.each(func(l *loop) {
		if first == nil {
			first = l.firstFailure
		}
	})
	return Connections{
		Err: first, Wanted: d.plan.connections(), Connected: c.connected, Failed: c.failed, Failures: d.reasons(func(l *loop) map[string]int { return l.failures }),
		Lost: c.disconnects, Losses: d.reasons(func(l *loop) map[string]int { return l.drops }),
		Seconds: seconds, PerSecond: float64(c.connected) / seconds, ConnackTime: h.latency(),
	}
}

// losses finds out how many messages are lost, and how many of those the broker had taken over.
func (d *director) losses(r *Report, c *counters) {
	if d.plan.Publishers == 0 {
		r.Lost = d.strangers.missing()
		return
	}
	if d.relation == nobody {
		return
	}
	r.Lost = c.expected - min(c.expected, c.unique)
	if d.qos == 0 || d.plan.SubQoS == 0 || c.sent == 0 {
		return
	}
	unacked := (c.sent - c.acked) * ((c.expected + c.sent - 1) / c.sent) // deliveries of messages without a promise, at most
	r.LostAcked = r.Lost - min(r.Lost, unacked)
}
