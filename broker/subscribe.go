package broker

import (
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// onSubscribe takes a SUBSCRIBE (§3.8.4).
func (c *conn) onSubscribe(f mqtt.Frame, t *turn) error {
	var p mqtt.Subscribe
	if err := p.Parse(f, c.version); err != nil {
		return err
	}
	var ids []uint32
	if id, ok := p.Props.Int(mqtt.SubscriptionIdentifier); ok {
		ids = []uint32{id}
	}
	t.flush() // an Authorizer may block
	ack := mqtt.Suback{PacketID: p.PacketID, Codes: make([]mqtt.ReasonCode, len(p.Subscriptions))}
	var replays []*replay
	for i, sub := range p.Subscriptions {
		made, isNew, err := c.subscribe(sub, ids)
		if err != nil {
			code, ok := reasonOf(err)
			if !ok {
				code = mqtt.UnspecifiedError // an Authorizer in trouble
			}
			if code == mqtt.ProtocolError || code == mqtt.MalformedPacket || code == mqtt.SessionTakenOver {
				return err
			}
			c.broker.log.Debug("subscription refused", "client", c.info.ClientID, "filter", sub.Filter, "reason", err)
			ack.Codes[i] = code // [MQTT-3.9.3-1]
			continue
		}
		ack.Codes[i] = mqtt.ReasonCode(made.QoS)
		if made.wantsRetained(isNew) {
			replays = append(replays, &replay{sub: made})
		}
	}
	c.sendKept(t, held{position: c.session.lastNote(), packet: ack.Append(nil, c.version)}) // [MQTT-3.8.4-1], [MQTT-3.8.4-6]
	if len(replays) > 0 {
		c.session.replay(replays, t)
	}
	return nil
}

// subscribe makes one subscription, or replaces the one with the same filter [MQTT-3.8.4-3].
func (c *conn) subscribe(sub mqtt.Subscription, ids []uint32) (made *subscription, isNew bool, err error) {
	b := c.broker
	epoch := b.accessEpoch.Load()
	made, err = b.checkSubscription(c.info, sub)
	if err != nil {
		if code, _ := reasonOf(err); code == mqtt.TopicFilterInvalid && c.version != mqtt.V5 {
			err = fmt.Errorf("%w: %w", mqtt.MalformedPacket, err) // [v3.1.1 MQTT-4.7.1-2], [v3.1.1 MQTT-4.8.0-1]
		}
		return nil, false, err
	}
	made.session, made.ids = c.session, ids
	isNew, err = c.session.addSubscription(made, c)
	if err != nil {
		return nil, false, err
	}
	if b.accessEpoch.Load() != epoch {
		b.reviewSubscription(made.session, c.info, made) // permissions changed while we were deciding
	}
	for _, f := range b.hooks.Load().subscribed {
		f(c.info, sub)
	}
	return made, isNew, nil
}

// checkSubscription decides about a subscription.
func (b *Broker) checkSubscription(info *ClientInfo, sub mqtt.Subscription) (*subscription, error) {
	made := &subscription{Subscription: sub}
	if err := b.decideSubscription(info, made); err != nil {
		return nil, err
	}
	return made, nil
}

// decideSubscription decides about a subscription of which what the client wants is known, and fills in what follows from that.
func (b *Broker) decideSubscription(info *ClientInfo, made *subscription) error {
	if err := topic.ValidateFilter(made.Filter, b.topicLimits); err != nil {
		return fmt.Errorf("%w: %w", mqtt.TopicFilterInvalid, err)
	}
	made.filter = made.Filter
	if _, rest, shared := topic.ParseShare(made.Filter); shared {
		made.filter, made.share = rest, made.Filter
		if made.NoLocal {
			return fmt.Errorf("%w: No Local on a shared subscription", mqtt.ProtocolError) // [MQTT-3.8.3-4]
		}
	}
	if err := b.maySubscribe(info, made.filter); err != nil {
		return err
	}
	made.covered = b.coversRead(info, made.filter)
	return nil
}

// wantsRetained applies Retain Handling (§3.8.3.1); a shared subscription never gets retained messages (§4.8.2).
func (s *subscription) wantsRetained(isNew bool) bool {
	return s.share == "" && (s.RetainHandling == mqtt.SendRetained || s.RetainHandling == mqtt.SendRetainedIfNew && isNew)
}

// addSubscription adds made on behalf of c, which is nil for subscribers in process.
func (s *Session) addSubscription(made *subscription, c *conn) (isNew bool, err error) {
	b := s.broker
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.Load() != c || s.ended {
		return false, mqtt.SessionTakenOver
	}
	old := s.subs.get(made.Filter)
	exists := old != nil
	if !exists && s.subs.len() >= b.limits.Subscriptions {
		return false, mqtt.QuotaExceeded
	}
	if !exists {
		if err := b.memory.admitSubscription(s); err != nil {
			return false, err
		}
	}
	if id := s.number(); id != 0 {
		position, err := b.note(made.record(id))
		if err != nil {
			return false, err
		}
		s.noted.Store(uint64(position))
	}
	s.subs.set(made)
	b.addSubscription(made, old)
	return !exists, nil
}

// addSubscription enters made into the trees, in place of old if that is not nil.
func (b *Broker) addSubscription(made, old *subscription) {
	b.memory.add(made.cost())
	if old != nil {
		b.memory.add(-old.cost())
	}
	b.subs.mu.Lock()
	defer b.subs.mu.Unlock()
	b.subs.epoch.Add(1)
	if made.share == "" {
		b.subs.tree.Set(made.filter, made.session, made)
		return
	}
	g, ok := b.subs.shared.Get(made.filter, made.share)
	if !ok {
		g = &shareGroup{}
		b.subs.shared.Set(made.filter, made.share, g)
	}
	g.replace(old, made)
}

// removeSubscription takes sub out of the trees.
func (b *Broker) removeSubscription(sub *subscription) {
	b.memory.add(-sub.cost())
	b.subs.mu.Lock()
	defer b.subs.mu.Unlock()
	b.subs.epoch.Add(1)
	if sub.share == "" {
		b.subs.tree.Delete(sub.filter, sub.session)
		return
	}
	if g, ok := b.subs.shared.Get(sub.filter, sub.share); ok {
		if g.replace(sub, nil); g.empty() {
			b.subs.shared.Delete(sub.filter, sub.share)
		}
	}
}

// onUnsubscribe takes an UNSUBSCRIBE (§3.10.4).
func (c *conn) onUnsubscribe(f mqtt.Frame, t *turn) error {
	var p mqtt.Unsubscribe
	if err := p.Parse(f, c.version); err != nil {
		return err
	}
	ack := mqtt.Unsuback{PacketID: p.PacketID, Codes: make([]mqtt.ReasonCode, len(p.Filters))}
	for i, filter := range p.Filters {
		code, err := c.unsubscribe(filter, t)
		if err != nil {
			return err
		}
		ack.Codes[i] = code // [MQTT-3.11.3-2]
	}
	c.sendKept(t, held{position: c.session.lastNote(), packet: ack.Append(nil, c.version)}) // [MQTT-3.10.4-4], [MQTT-3.10.4-5]
	c.session.pump(t)                                                                       // retained messages that stood behind those of a subscription that ended
	return nil
}

func (c *conn) unsubscribe(filter string, t *turn) (mqtt.ReasonCode, error) {
	if err := topic.ValidateFilter(filter, c.broker.topicLimits); err != nil {
		if c.version != mqtt.V5 {
			return 0, fmt.Errorf("%w: %w", mqtt.MalformedPacket, err)
		}
		return mqtt.TopicFilterInvalid, nil
	}
	removed, err := c.session.dropSubscription(filter, c, t)
	if err != nil {
		return 0, err
	}
	if !removed {
		return mqtt.NoSubscriptionExisted, nil
	}
	for _, f := range c.broker.hooks.Load().unsubscribed {
		f(c.info, filter)
	}
	return mqtt.Success, nil
}

// dropSubscription removes one subscription on behalf of c [MQTT-3.10.4-1], [MQTT-3.10.4-2]. What is on its way is still
// delivered [MQTT-3.10.4-3], except that messages of a shared subscription that were not sent go to its other members.
func (s *Session) dropSubscription(filter string, c *conn, t *turn) (removed bool, err error) {
	s.mu.Lock()
	if s.conn.Load() != c {
		s.mu.Unlock()
		return false, mqtt.SessionTakenOver
	}
	sub := s.subs.get(filter)
	ok := sub != nil
	if ok {
		s.subs.delete(filter)
		s.noteSession(store.Record{Kind: store.Unsubscribed, Subscription: mqtt.Subscription{Filter: filter}})
		s.broker.removeSubscription(sub)
		s.cancelReplay(sub)
	}
	s.mu.Unlock()
	if ok && sub.share != "" {
		defer s.broker.limbo.leave(s.broker.limbo.enter())
		s.broker.passOnShare(s, sub.share, t)
	}
	return ok, nil
}
