package broker

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
)

// decide asks the client's own authorizer, then the broker's. Deny wins; somebody has to say yes, unless nobody is there to ask.
func (b *Broker) decide(info *ClientInfo, a Action, name string) error {
	if info == nil {
		return nil // the server itself, or the program around it
	}
	allowed, asked := false, false
	for _, z := range [...]Authorizer{info.Access, b.config.Authorizer} {
		if z == nil {
			continue
		}
		asked = true
		switch err := z.Authorize(info, a, name); {
		case err == nil:
			allowed = true
		case !errors.Is(err, ErrNoOpinion):
			return err
		}
	}
	if asked && !allowed {
		return mqtt.NotAuthorized
	}
	return nil
}

// decidesAtOnce reports whether decide does not wait for anybody.
func (b *Broker) decidesAtOnce(info *ClientInfo) bool {
	for _, z := range [...]Authorizer{info.Access, b.config.Authorizer} {
		if p, ok := z.(Prompt); z != nil && (!ok || !p.DecidesAtOnce()) {
			return false
		}
	}
	return true
}

// mayWrite decides whether a client may publish to a name.
func (b *Broker) mayWrite(info *ClientInfo, name string) error {
	if name[0] == '$' && !b.openDollar(name) {
		return fmt.Errorf("%w: clients do not publish to this $ topic", mqtt.NotAuthorized) // §4.7.2
	}
	return b.decide(info, Write, name)
}

// openDollar reports whether the configuration opens a name that begins with $ to publishers.
func (b *Broker) openDollar(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return first != "$SYS" && first != "$share" && slices.Contains(b.config.DollarTopics, first)
}

// mayRead decides whether a client may receive a message.
func (b *Broker) mayRead(info *ClientInfo, name string) error { return b.decide(info, Read, name) }

// maySubscribe decides about a filter.
func (b *Broker) maySubscribe(info *ClientInfo, filter string) error {
	return b.decide(info, Subscribe, filter)
}

// coversRead reports whether deliveries for the filter need no check one by one.
func (b *Broker) coversRead(info *ClientInfo, filter string) bool {
	if info == nil {
		return true
	}
	for _, z := range [...]Authorizer{info.Access, b.config.Authorizer} {
		if z == nil {
			continue
		}
		if covers, ok := z.(Coverer); !ok || !covers.CoversRead(info, filter) {
			return false
		}
	}
	return true
}

// Reauthorize asks anew about everything that clients do, after permissions have changed: the next publish to each topic,
// every subscription, and every message that waits or is in flight. Subscriptions that are not allowed any more end
// silently, as MQTT has no packet to tell.
func (b *Broker) Reauthorize() {
	b.accessEpoch.Add(1)
	b.mu.RLock()
	all := make([]*Session, 0, len(b.sessions))
	for _, s := range b.sessions {
		all = append(all, s)
	}
	b.mu.RUnlock()
	for _, s := range all {
		b.reauthorize(s)
	}
}

// reauthorize does it for one session.
func (b *Broker) reauthorize(s *Session) {
	info := s.info.Load()
	if info == nil || info.Remote == (notSince{}) || b.config.Authorizer == nil && info.Access == nil {
		return // no client has reached it yet, so that nobody knows what it may do; or nobody is there to ask
	}
	s.mu.Lock()
	subs := slices.Collect(s.subs.all())
	waiting := make(map[string]bool) // whether a topic may not be read
	for d := range s.out.All() {
		waiting[d.Message.Topic] = false
	}
	s.mu.Unlock()
	for _, sub := range subs {
		b.reviewSubscription(s, info, sub)
	}
	for name := range waiting {
		waiting[name] = b.mayRead(info, name) != nil
	}
	b.removeDenied(s, waiting)
	t := b.beginTurn()
	defer t.end()
	s.pump(t) // what stood behind that which ended
}

// reviewSubscription ends a subscription that is not allowed any more, and updates one that is.
func (b *Broker) reviewSubscription(s *Session, info *ClientInfo, sub *subscription) {
	denied := b.maySubscribe(info, sub.filter) != nil
	updated := *sub
	updated.covered = !denied && b.coversRead(info, sub.filter)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs.get(sub.Filter) != sub {
		return
	}
	if denied {
		s.subs.delete(sub.Filter)
		s.noteSession(store.Record{Kind: store.Unsubscribed, Subscription: mqtt.Subscription{Filter: sub.Filter}})
		b.removeSubscription(sub)
		s.cancelReplay(sub)
		return
	}
	if updated.covered != sub.covered {
		s.subs.set(&updated)
		b.addSubscription(&updated, sub)
		for _, r := range s.replays {
			if r.sub == sub {
				r.sub = &updated
			}
		}
	}
}

// removeDenied drops deliveries of topics that the session may not read any more.
func (b *Broker) removeDenied(s *Session, denied map[string]bool) {
	var lost []*mqtt.Message
	s.mu.Lock()
	s.out.Remove(func(d session.Delivery, _ bool) bool {
		if denied[d.Message.Topic] {
			s.settled(&d)
			lost = append(lost, d.Message)
			return true
		}
		return false
	})
	s.settleQueue()
	s.mu.Unlock()
	for _, m := range lost {
		b.droppedMessage(s, m, DropDenied)
	}
}

// checkContent holds the rules about properties that package mqtt cannot know.
func (b *Broker) checkContent(p mqtt.Properties, payload []byte) error {
	if len(p) == 0 {
		return nil
	}
	if response, ok := p.Bytes(mqtt.ResponseTopic); ok && (len(response) == 0 || bytes.ContainsAny(response, "+#")) {
		return fmt.Errorf("%w: response topic is not a topic name", mqtt.ProtocolError) // [MQTT-3.3.2-14]
	}
	if b.config.CheckPayloadFormat && p.Flag(mqtt.PayloadFormatIndicator, false) && !utf8.Valid(payload) {
		return fmt.Errorf("%w: payload is not UTF-8", mqtt.PayloadFormatInvalid) // §3.3.2.3.2
	}
	return nil
}
