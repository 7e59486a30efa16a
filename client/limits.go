package client

import (
	"errors"
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// receiveLimits are what CONNECT told the server.
type receiveLimits struct {
	maximum   int // Receive Maximum
	maxPacket int // bytes
	aliases   uint16
}

// limitsOf returns what the server knows: MQTT 3 has no way to tell it.
func limitsOf(c *Config) receiveLimits {
	if c.Version != mqtt.V5 {
		return receiveLimits{maximum: mostReceiveMaximum, maxPacket: c.MaxPacketSize}
	}
	p := c.connectProps()
	return receiveLimits{
		maximum:   int(number(p, mqtt.ReceiveMaximum, mostReceiveMaximum)),
		maxPacket: int(min(number(p, mqtt.MaximumPacketSize, mqtt.MaxPacket), mqtt.MaxPacket)),
		aliases:   uint16(number(p, mqtt.TopicAliasMaximum, 0)),
	}
}

// sendLimits are what CONNACK told us (§3.2.2.3); MQTT 3 tells nothing.
type sendLimits struct {
	receiveMaximum int
	maxPacket      int // bytes
	maxQoS         mqtt.QoS
	aliases        uint16

	noRetain, noWildcards, noIdentifiers, noShared bool
}

func (l *sendLimits) learn(p mqtt.Properties) {
	*l = sendLimits{
		receiveMaximum: int(number(p, mqtt.ReceiveMaximum, mostReceiveMaximum)),
		maxPacket:      int(min(number(p, mqtt.MaximumPacketSize, mqtt.MaxPacket), mqtt.MaxPacket)),
		maxQoS:         mqtt.QoS(number(p, mqtt.MaximumQoS, uint32(mqtt.ExactlyOnce))),
		aliases:        uint16(number(p, mqtt.TopicAliasMaximum, 0)),
		noRetain:       !p.Flag(mqtt.RetainAvailable, true),
		noWildcards:    !p.Flag(mqtt.WildcardSubscriptionAvailable, true),
		noIdentifiers:  !p.Flag(mqtt.SubscriptionIdentifierAvailable, true),
		noShared:       !p.Flag(mqtt.SharedSubscriptionAvailable, true),
	}
}

func number(p mqtt.Properties, id mqtt.Property, byDefault uint32) uint32 {
	if v, ok := p.Int(id); ok {
		return v
	}
	return byDefault
}

// check reports what the server has said it does not take.
func (l *sendLimits) check(m *mqtt.Message, v mqtt.Version) error {
	p := packetOf(m)
	switch {
	case m.QoS > l.maxQoS:
		return fmt.Errorf("%w: the server takes at most QoS %d", mqtt.QoSNotSupported, l.maxQoS) // [MQTT-3.2.2-11]
	case m.Retain && l.noRetain:
		return fmt.Errorf("%w by the server", mqtt.RetainNotSupported) // [MQTT-3.2.2-14]
	case p.Size(v) > l.maxPacket:
		return fmt.Errorf("%w: the server takes at most %d bytes", mqtt.PacketTooLarge, l.maxPacket) // [MQTT-3.2.2-15]
	}
	return nil
}

// validateMessage reports what no server may be sent.
func validateMessage(m *mqtt.Message, v mqtt.Version) error {
	if err := topic.ValidateName(m.Topic, topic.Limits{}); err != nil {
		return fmt.Errorf("%w: %w", mqtt.TopicNameInvalid, err)
	}
	if m.QoS > mqtt.ExactlyOnce {
		return fmt.Errorf("%w: there is no QoS %d", mqtt.QoSNotSupported, m.QoS)
	}
	if v != mqtt.V5 {
		return nil // properties are left out
	}
	_, err := mqtt.ParseProperties(m.Props, mqtt.PUBLISH)
	for _, hop := range []mqtt.Property{mqtt.MessageExpiryInterval, mqtt.TopicAlias, mqtt.SubscriptionIdentifier} {
		if _, there := m.Props.Int(hop); there && err == nil {
			err = fmt.Errorf("%w: property 0x%02X is not the message's", mqtt.ProtocolError, byte(hop))
		}
	}
	if name, ok := m.Props.Bytes(mqtt.ResponseTopic); ok && err == nil {
		if bad := topic.ValidateName(string(name), topic.Limits{}); bad != nil {
			err = fmt.Errorf("response topic: %w: %w", mqtt.TopicNameInvalid, bad) // [MQTT-3.3.2-14]
		}
	}
	return err
}

var errNoFilter = errors.New("no topic filter")

// checkFilters reports what is wrong with a SUBSCRIBE before the server does.
func (c *Conn) checkFilters(p *mqtt.Subscribe) error {
	if len(p.Subscriptions) == 0 {
		return errNoFilter // [MQTT-3.8.3-2]
	}
	for i := range p.Subscriptions {
		if err := c.sending.checkSubscription(&p.Subscriptions[i], c.version); err != nil {
			return fmt.Errorf("%q: %w", p.Subscriptions[i].Filter, err)
		}
	}
	if _, err := mqtt.ParseProperties(p.Props, mqtt.SUBSCRIBE); err != nil {
		return err
	}
	if _, ok := p.Props.Int(mqtt.SubscriptionIdentifier); ok && c.sending.noIdentifiers {
		return fmt.Errorf("%w by the server", mqtt.SubscriptionIdentifiersNotSupported)
	}
	return c.checkProps(p.Props)
}

// checkSubscription reports what the server has said it does not take, and what none may be asked for.
func (l *sendLimits) checkSubscription(s *mqtt.Subscription, v mqtt.Version) error {
	if err := topic.ValidateFilter(s.Filter, topic.Limits{}); err != nil {
		return fmt.Errorf("%w: %w", mqtt.TopicFilterInvalid, err)
	}
	_, rest, shared := topic.ParseShare(s.Filter)
	switch {
	case s.QoS > mqtt.ExactlyOnce || s.RetainHandling > mqtt.DoNotSendRetained:
		return fmt.Errorf("%w: no such subscription option", mqtt.ProtocolError)
	case v != mqtt.V5 && (s.NoLocal || s.RetainAsPublished || s.RetainHandling != 0):
		return fmt.Errorf("subscription options other than QoS need MQTT 5.0, not %v", v)
	case shared && l.noShared:
		return fmt.Errorf("%w by the server", mqtt.SharedSubscriptionsNotSupported)
	case shared && s.NoLocal:
		return fmt.Errorf("%w: no local on a shared subscription", mqtt.ProtocolError) // [MQTT-3.8.3-4]
	case l.noWildcards && hasWildcard(rest):
		return fmt.Errorf("%w by the server", mqtt.WildcardSubscriptionsNotSupported)
	}
	return nil
}

func (c *Conn) checkProps(p mqtt.Properties) error {
	if len(p) > 0 && c.version != mqtt.V5 {
		return fmt.Errorf("properties need MQTT 5.0, not %v", c.version)
	}
	return nil
}

func (c *Conn) checkUnsubscribe(p *mqtt.Unsubscribe) error {
	if len(p.Filters) == 0 {
		return errNoFilter // [MQTT-3.10.3-2]
	}
	for _, f := range p.Filters {
		if err := topic.ValidateFilter(f, topic.Limits{}); err != nil {
			return fmt.Errorf("%q: %w: %w", f, mqtt.TopicFilterInvalid, err)
		}
	}
	if _, err := mqtt.ParseProperties(p.Props, mqtt.UNSUBSCRIBE); err != nil {
		return err
	}
	return c.checkProps(p.Props)
}
