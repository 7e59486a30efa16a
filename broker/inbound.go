package broker

import (
	"errors"
	"fmt"
	"slices"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/topic"
)

// handle processes one packet from a client.
func (c *conn) handle(f mqtt.Frame, t *turn) error {
	if c.state != connected {
		return c.handshake(f, t)
	}
	switch f.Type {
	case mqtt.PUBLISH:
		return c.onPublish(f, t)
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		return c.onAck(f, t)
	case mqtt.SUBSCRIBE:
		return c.onSubscribe(f, t)
	case mqtt.UNSUBSCRIBE:
		return c.onUnsubscribe(f, t)
	case mqtt.PINGREQ:
		if err := mqtt.ParseEmpty(f); err != nil {
			return err
		}
		c.sendBytes(t, pingresp) // [MQTT-3.12.4-1]
		return nil
	case mqtt.DISCONNECT:
		return c.onDisconnect(f)
	case mqtt.AUTH:
		return c.onReauthenticate(f, t)
	case mqtt.CONNECT:
		return fmt.Errorf("%w: a second CONNECT", mqtt.ProtocolError) // [MQTT-3.1.0-2]
	}
	return fmt.Errorf("%w: a client does not send %s", mqtt.ProtocolError, f.Type)
}

var pingresp = mqtt.AppendPingresp(nil)

// publishedTopic is a Topic Name that the client publishes to, validated, with the decision about it.
type publishedTopic struct {
	name  string
	epoch uint64 // of the decision; see Broker.accessEpoch
	err   error  // why the client may not publish to it; nil when it may

	targets []*subscription // who gets what is published to it
	routed  uint64          // for which subscriptions.epoch, plus one
}

// topicCacheSize bounds how many names a connection remembers, topicCacheBytes how long they are. Devices publish to few and
// short ones; nobody else is to fill the memory with them.
const (
	topicCacheSize  = 64
	topicCacheBytes = 512
)

// topicNamed returns the entry of a Topic Name. The one used last is found without a look-up.
func (c *conn) topicNamed(name []byte) (*publishedTopic, error) {
	if c.lastTopic != nil && c.lastTopic.name == string(name) {
		return c.lastTopic, nil
	}
	if e, ok := c.topics[string(name)]; ok {
		c.lastTopic = e
		return e, nil
	}
	e := &publishedTopic{name: string(name)}
	if err := topic.ValidateName(e.name, c.broker.topicLimits); err != nil {
		return nil, nameError(err)
	}
	if c.lastTopic != nil && len(name) <= topicCacheBytes { // a second name: from here on a map pays
		if c.topics == nil || len(c.topics) >= topicCacheSize {
			c.topics = make(map[string]*publishedTopic)
			c.topics[c.lastTopic.name] = c.lastTopic
		}
		c.topics[e.name] = e
	}
	c.lastTopic = e
	return e, nil
}

// resolve finds the Topic Name of a PUBLISH, by alias if need be (§3.3.2.3.4).
func (c *conn) resolve(p *mqtt.Publish) (*publishedTopic, error) {
	if len(p.Topic) == 0 {
		name, err := c.aliases.Get(p.Alias)
		if err != nil {
			return nil, err
		}
		return c.topicNamed(bytesOf(name))
	}
	e, err := c.topicNamed(p.Topic)
	if err == nil && p.HasAlias {
		if err = c.admitAlias(p.Alias, e.name); err == nil {
			err = c.aliases.Set(p.Alias, e.name)
		}
	}
	return e, err
}

// onPublish takes a message: resolve the name, decide, own it, acknowledge.
func (c *conn) onPublish(f mqtt.Frame, t *turn) error {
	p := &t.pub.Publish
	if p.Known = ""; c.lastTopic != nil {
		p.Known = c.lastTopic.name
	}
	if err := p.Parse(f, c.version); err != nil {
		return err
	}
	if len(p.IDs) > 0 {
		return fmt.Errorf("%w: a client does not send Subscription Identifiers", mqtt.ProtocolError) // [MQTT-3.3.4-6]
	}
	e, err := c.resolve(p)
	if err != nil {
		return err
	}
	if t.looped && e.epoch != c.broker.accessEpoch.Load() && !c.broker.decidesAtOnce(c.info) {
		return errMustWait
	}
	t.pubIn[p.QoS]++
	t.pubInB += len(p.Payload)
	c.bucket.take()
	fresh, err := c.receive(p)
	if err == mqtt.PacketIdentifierInUse {
		return c.refuse(p, t, err)
	}
	if err != nil {
		return err
	}
	if !fresh {
		t.pub.position, t.pub.promise = c.session.lastNote(), store.Default // it may have come on another connection, and not be on disk yet
		c.acknowledge(p.QoS, p.PacketID, mqtt.Success, t)                   // seen before: answered again, delivered never [MQTT-4.3.3-10]
		return nil
	}
	qos, id := p.QoS, p.PacketID
	if err := c.mayPublish(e, p, t); err != nil {
		c.session.opened(id, err)
		return c.refuse(p, t, err)
	}
	t.pub.begin(e.name, c.info.ClientID)
	t.pub.topic = e
	from := c.session
	if qos != mqtt.ExactlyOnce {
		from = nil
	}
	receivers, err := c.broker.publish(t, c.info, from, id)
	if err != nil {
		p.PacketID = id
		return c.refuse(p, t, err)
	}
	code := mqtt.Success
	if receivers == 0 {
		code = mqtt.NoMatchingSubscribers
	}
	c.acknowledge(qos, id, code, t) // the message has an owner now [MQTT-4.3.2-4]
	return nil
}

// receive opens the handshake of QoS 1 and 2 in the session, unless another connection owns that by now. Who receives a fresh message
// calls opened.
func (c *conn) receive(p *mqtt.Publish) (fresh bool, err error) {
	if p.QoS == mqtt.AtMostOnce {
		return true, nil
	}
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.Load() != c {
		return false, mqtt.SessionTakenOver
	}
	if p.QoS == mqtt.ExactlyOnce && c.broker.memory.tight() && s.in.Open() > smallSession/32 {
		return false, errMemory // MQTT 3 cannot be told of a smaller Receive Maximum
	}
	fresh, err = s.in.Receive(p)
	if err == mqtt.PacketIdentifierInUse && c.version != mqtt.V5 {
		s.in.Refused(p.PacketID) // MQTT 3 has no code for this: the client has forgotten the old handshake, so do we
		fresh, err = s.in.Receive(p)
	}
	switch {
	case err != nil || p.QoS != mqtt.ExactlyOnce:
	case fresh:
		s.opening = append(s.opening, p.PacketID)
	case slices.Contains(s.opening, p.PacketID):
		return false, fmt.Errorf("%w: the connection before is still at this message", mqtt.ServerBusy) // it may yet be refused
	}
	return fresh, err
}

// opened ends what receive began for a message of QoS 2: the store knows it, or it was refused. Then the handshake ends at once,
// whatever becomes of the answer: on its next connection the client may send the message again, and that is no duplicate.
func (s *Session) opened(id uint16, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.opening, id)
	if i < 0 {
		return // QoS 1
	}
	if s.opening = slices.Delete(s.opening, i, i+1); err != nil {
		s.in.Refused(id) // [MQTT-4.3.3-9]
	}
}

// mayPublish decides whether the client may publish this, and remembers the decision about the name.
func (c *conn) mayPublish(e *publishedTopic, p *mqtt.Publish, t *turn) error {
	if epoch := c.broker.accessEpoch.Load(); e.epoch != epoch {
		if !c.broker.decidesAtOnce(c.info) {
			t.flush() // an Authorizer may block
		}
		err := c.broker.mayWrite(c.info, e.name)
		if code, _ := reasonOf(err); err != nil && code != mqtt.NotAuthorized {
			return err // no decision but a fault: ask again next time
		}
		e.err, e.epoch = err, epoch
	}
	if e.err != nil {
		return e.err
	}
	return c.broker.checkContent(p.Props, p.Payload)
}

// refuse answers a message that is not accepted: with the code where the version has one. MQTT 3 has none: a message that
// the client may not publish, or that has no receiver with room for it, is acknowledged all the same, which
// [v3.1.1 MQTT-3.3.5-2] allows, so that a device does not send it for ever; any other reason ends the connection. So it does for
// QoS 0, which has no answer.
func (c *conn) refuse(p *mqtt.Publish, t *turn, err error) error {
	c.broker.stats.refused.Add(1)
	c.broker.log.Debug("message refused", "client", c.info.ClientID, "topic", c.lastTopic.name, "qos", p.QoS, "reason", err)
	code, ok := reasonOf(err)
	switch {
	case !ok:
		code = mqtt.UnspecifiedError
	case code == mqtt.NotAuthorized, errors.Is(err, errReceiversFull):
	case c.version != mqtt.V5, p.QoS == mqtt.AtMostOnce, code == mqtt.ProtocolError, code == mqtt.MalformedPacket:
		return err
	}
	c.acknowledge(p.QoS, p.PacketID, code, t)
	return nil
}

// acknowledge answers a PUBLISH with PUBACK or PUBREC, once what it acknowledges is kept.
func (c *conn) acknowledge(qos mqtt.QoS, id uint16, code mqtt.ReasonCode, t *turn) {
	switch qos {
	case mqtt.AtLeastOnce:
		c.sendKept(t, held{position: t.pub.position, promise: t.pub.promise, ack: mqtt.Ack{Type: mqtt.PUBACK, PacketID: id, Code: code}})
	case mqtt.ExactlyOnce:
		c.sendKept(t, held{position: t.pub.position, promise: t.pub.promise, ack: mqtt.Ack{Type: mqtt.PUBREC, PacketID: id, Code: code}})
	}
}

// onAck takes the steps of a handshake: PUBREL for messages received, the others for messages sent.
func (c *conn) onAck(f mqtt.Frame, t *turn) error {
	var a mqtt.Ack
	if err := a.Parse(f, c.version); err != nil {
		return err
	}
	s := c.session
	s.mu.Lock()
	if s.conn.Load() != c {
		s.mu.Unlock()
		return mqtt.SessionTakenOver
	}
	reply, position, err := s.acknowledged(&a)
	s.settleQueue()
	more := s.out.Ready() || len(s.replays) > 0
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if reply.Type != 0 {
		c.answer(t, position, reply)
	}
	if more {
		s.pump(t)
	}
	return nil
}

// acknowledged applies one step of a handshake, and returns the packet that answers it, if any, and the position in the store
// for which that has to wait. A step that is taken again, on another connection, waits for the record of the first time: the
// client forgets on the answer, so a restart must not remember.
func (s *Session) acknowledged(a *mqtt.Ack) (reply mqtt.Ack, position store.Position, err error) {
	about := store.Position(s.out.Position(a.PacketID))
	switch a.Type {
	case mqtt.PUBACK:
		d, known, err := s.out.Acknowledge(a.PacketID)
		if known && err == nil {
			s.settled(&d)
		}
		return reply, 0, err
	case mqtt.PUBREC:
		waited, needed := s.out.Waits(a.PacketID), s.out.Needs(a.PacketID)
		code, done, err := s.out.Received(a.PacketID, a.Code)
		if err != nil {
			return reply, 0, err
		}
		if waited && about != 0 {
			s.noteHandshake(store.Received, about, a.PacketID)
			if needed { // else it was counted when the message was taken out
				s.broker.store.Use(about, -1)
			}
		}
		if done {
			return reply, 0, nil
		}
		return mqtt.Ack{Type: mqtt.PUBREL, PacketID: a.PacketID, Code: code}, s.lastNote(), nil // [MQTT-4.3.3-4]
	case mqtt.PUBCOMP:
		known, err := s.out.Complete(a.PacketID)
		if known && err == nil && about != 0 {
			s.noteHandshake(store.Completed, about, a.PacketID)
		}
		return reply, 0, err
	case mqtt.PUBREL:
		code := s.in.Release(a.PacketID)
		if code == mqtt.Success {
			s.noteSession(store.Record{Kind: store.Released, PacketID: a.PacketID})
		}
		return mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: a.PacketID, Code: code}, s.lastNote(), nil // [MQTT-4.3.3-11]
	}
	return reply, 0, nil
}

// noteHandshake tells the store of a step of the handshake of a QoS 2 message that the session is sent. Nobody waits for the last one.
func (s *Session) noteHandshake(k store.Kind, about store.Position, id uint16) {
	r := store.Record{Kind: k, About: about, PacketID: id}
	if k == store.Completed {
		r.Promise = store.Written
	}
	s.noteSession(r)
}

// onDisconnect ends the connection as the client wishes (§3.14).
func (c *conn) onDisconnect(f mqtt.Frame) error {
	var d mqtt.Disconnect
	if err := d.Parse(f, c.version); err != nil {
		return err
	}
	if seconds, ok := d.Props.Int(mqtt.SessionExpiryInterval); ok {
		if c.info.Expiry == 0 && seconds > 0 {
			return fmt.Errorf("%w: a session that ends with its connection cannot be kept", mqtt.ProtocolError) // [MQTT-3.14.2-2]
		}
		c.session.setExpiry(c, c.broker.expiry(seconds))
	}
	return &disconnected{d.Code}
}

// disconnected is the error of a connection that the client ended with DISCONNECT.
type disconnected struct{ code mqtt.ReasonCode }

func (d *disconnected) Error() string {
	if d.code == mqtt.Success {
		return "disconnected by the client"
	}
	return "disconnected by the client: " + d.code.String()
}
