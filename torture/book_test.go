package torture

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/magpiemq/magpie/mqtt"
)

// orderBook is that of a subscriber who gets everything: a number of a stream that was left out is a message that was lost or
// overtaken.
type orderBook struct {
	*ledger
	qos   mqtt.QoS               // of the subscription
	got   map[stream]int         // the last number of each stream
	wills map[string]map[int]int // by Topic Name: how often each came
}

func newOrderBook(l *ledger, qos mqtt.QoS) *orderBook {
	return &orderBook{l, qos, make(map[stream]int), make(map[string]map[int]int)}
}

// enter implements book.
func (b *orderBook) enter(p *mqtt.Publish) error {
	if len(p.Payload) == 0 {
		return nil // has no number
	}
	qos, n, err := readBody(p.Payload)
	if err != nil {
		return err
	}
	if p.Topic[0] == 'w' {
		return b.enterWill(string(p.Topic), n, p.QoS)
	}
	if p.QoS != min(qos, b.qos) {
		return fmt.Errorf("published with QoS %d, came with QoS %d", qos, p.QoS)
	}
	st := stream{string(p.Topic), qos}
	last := b.got[st]
	switch want := st.after(last); {
	case n == want:
		b.got[st] = n
	case n > want:
		return fmt.Errorf("%v: message %d came after %d; %d was acknowledged to its publisher: %v", st, n, last, want, b.isAcknowledged(st, want))
	case p.QoS == mqtt.ExactlyOnce:
		return fmt.Errorf("%v: message %d came again after %d", st, n, last)
	}
	return nil
}

func (b *orderBook) enterWill(name string, n int, qos mqtt.QoS) error {
	if b.wills[name] == nil {
		b.wills[name] = make(map[int]int)
	}
	if b.wills[name][n]++; b.wills[name][n] > 1 && qos == mqtt.ExactlyOnce {
		return fmt.Errorf("Will %d came twice", n)
	}
	if b.will(name, n) == forbidden {
		return fmt.Errorf("Will %d must not have come", n)
	}
	return nil
}

// missing implements book: messages of streams, all of which are acknowledged by now, and Wills.
func (b *orderBook) missing() (missing []string) {
	streams, wills := b.snapshot()
	for st, a := range streams {
		last := a.sent
		if st.clears(last) {
			last-- // empty ones have no number
		}
		if got := b.got[st]; got < last && !st.shared() {
			missing = append(missing, fmt.Sprintf("%v: got %d, published %d", st, got, last))
		}
	}
	for name, fates := range wills {
		for i, f := range fates {
			if f == promised && b.wills[name][i+1] == 0 {
				missing = append(missing, fmt.Sprintf("Will %d on %q", i+1, name))
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// close implements book: it looks for Wills that were published, and that was forbidden later.
func (b *orderBook) close() error {
	_, wills := b.snapshot()
	var wrong []error
	for name, fates := range wills {
		for i, f := range fates {
			if f == forbidden && b.wills[name][i+1] > 0 {
				wrong = append(wrong, fmt.Errorf("Will %d on %q must not have come", i+1, name))
			}
		}
	}
	return errors.Join(wrong...)
}

// groupBook is that of all members of one Shared Subscription: each message reaches one of them, of QoS 2 no second time. One
// that a member did not acknowledge may come again, to another one, so there is no order.
type groupBook struct {
	*ledger
	mu  sync.Mutex
	got map[stream]map[int]int // how often each message came
}

func newGroupBook(l *ledger) *groupBook {
	return &groupBook{ledger: l, got: make(map[stream]map[int]int)}
}

// enter implements book.
func (b *groupBook) enter(p *mqtt.Publish) error {
	qos, n, err := readBody(p.Payload)
	if err != nil {
		return err
	}
	st := stream{string(p.Topic), qos}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.got[st] == nil {
		b.got[st] = make(map[int]int)
	}
	if b.got[st][n]++; b.got[st][n] > 1 && qos == mqtt.ExactlyOnce {
		return fmt.Errorf("%v: message %d reached the group %d times", st, n, b.got[st][n])
	}
	return nil
}

// missing implements book.
func (b *groupBook) missing() (missing []string) {
	streams, _ := b.snapshot()
	b.mu.Lock()
	defer b.mu.Unlock()
	for st, a := range streams {
		if !st.shared() || len(b.got[st]) == a.sent {
			continue
		}
		for n := 1; n <= a.sent; n++ {
			if b.got[st][n] == 0 {
				missing = append(missing, fmt.Sprintf("%v: message %d", st, n))
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// close implements book.
func (b *groupBook) close() error { return nil }
