package torture

import (
	"errors"
	"math/rand/v2"

	"github.com/magpiemq/magpie/mqtt"
)

// auditor is a new client that asks for the retained messages.
type auditor struct {
	client
	found map[stream]int
}

// auditRetained compares the retained messages with the ledger: each is the one that was acknowledged last, or one that was sent
// since. With exact everything is acknowledged.
func (r *run) auditRetained(exact bool) {
	a := &auditor{client: client{world: r.world, id: "auditor", v: mqtt.V5, rng: rand.New(rand.NewPCG(r.seed, r.rng.Uint64()))}}
	before, _ := r.snapshot()
	for !a.look() {
		if a.ctx.Err() != nil {
			return
		}
	}
	for st, acct := range before {
		if !st.retained() {
			continue
		}
		_, sent := r.balance(st)
		if exact && acct.owned != sent {
			r.fail("%v: %d were sent and %d acknowledged", st, sent, acct.owned)
		}
		if n := a.found[st]; !st.plausible(n, acct.owned, sent) {
			r.fail("%v: message %d is retained (0: none); %d was acknowledged, %d sent", st, n, acct.owned, sent)
		}
	}
}

// plausible reports whether message n, or with 0 none, may be the retained one when owned were acknowledged and sent were sent.
func (s stream) plausible(n, owned, sent int) bool {
	if n > 0 {
		return n >= owned && n <= sent
	}
	for k := owned; k <= sent; k++ {
		if k == 0 || s.clears(k) {
			return true
		}
	}
	return false
}

// look collects the retained messages, and reports whether it came to an end before a kill.
func (a *auditor) look() bool {
	a.found = make(map[stream]int)
	w, _ := a.dial(func(int64) mqtt.Connect {
		return mqtt.Connect{Version: a.v, ClientID: a.id, KeepAlive: 600, CleanStart: true}
	})
	if w == nil {
		return false
	}
	defer func() { _ = w.nc.Close() }()
	p := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: "r/#", QoS: mqtt.AtMostOnce}}}
	w.out = mqtt.AppendPingreq(p.Append(w.out, a.v))
	w.flush()
	for {
		packet, err := w.next()
		if err != nil {
			a.ended(w, err)
			return false
		}
		switch packet := packet.(type) {
		case pong:
			return true
		case mqtt.Publish:
			if err := a.note(&packet); err != nil {
				a.fail("auditor: %v", err)
			}
		}
	}
}

var errQoS = errors.New("a QoS 0 subscription got another QoS")

// note takes a retained message; those that are published meanwhile have no RETAIN flag.
func (a *auditor) note(p *mqtt.Publish) error {
	if !p.Retain {
		return nil
	}
	if p.QoS != mqtt.AtMostOnce {
		return errQoS
	}
	qos, n, err := readBody(p.Payload)
	if err == nil {
		a.found[stream{string(p.Topic), qos}] = n
	}
	return err
}
