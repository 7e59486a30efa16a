package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/magpiemq/magpie/cmd/magpie/internal/text"
	"github.com/magpiemq/magpie/mqtt"
)

// propFlag is one -D: a property of a packet.
type propFlag struct {
	packet, name string
	key, value   string // key is for user-property alone
}

// propFlags are all of them, in order.
type propFlags []propFlag

// packetWords are the packets that -D can mean. The will is none and is checked inside a CONNECT.
var packetWords = map[string]mqtt.PacketType{
	"connect": mqtt.CONNECT, "publish": mqtt.PUBLISH, "subscribe": mqtt.SUBSCRIBE, "unsubscribe": mqtt.UNSUBSCRIBE,
	"disconnect": mqtt.DISCONNECT, "will": 0,
}

type propertyWord struct {
	id   mqtt.Property
	most uint64 // largest number; zero for text
}

// propertyWords are those that a client sets. Topic aliases are given by themselves, authentication by --scram.
var propertyWords = map[string]propertyWord{
	"content-type":                 {mqtt.ContentType, 0},
	"correlation-data":             {mqtt.CorrelationData, 0},
	"maximum-packet-size":          {mqtt.MaximumPacketSize, math.MaxUint32},
	"message-expiry-interval":      {mqtt.MessageExpiryInterval, math.MaxUint32},
	"payload-format-indicator":     {mqtt.PayloadFormatIndicator, 1},
	"receive-maximum":              {mqtt.ReceiveMaximum, math.MaxUint16},
	"request-problem-information":  {mqtt.RequestProblemInformation, 1},
	"request-response-information": {mqtt.RequestResponseInformation, 1},
	"response-topic":               {mqtt.ResponseTopic, 0},
	"session-expiry-interval":      {mqtt.SessionExpiryInterval, math.MaxUint32},
	"subscription-identifier":      {mqtt.SubscriptionIdentifier, 268_435_455},
	"topic-alias-maximum":          {mqtt.TopicAliasMaximum, math.MaxUint16},
	"user-property":                {mqtt.UserProperty, 0},
	"will-delay-interval":          {mqtt.WillDelayInterval, math.MaxUint32},
}

// Decode takes three or four arguments.
func (p *propFlags) Decode(ctx *kong.DecodeContext) (err error) {
	var f propFlag
	next := func(what string) (s string) {
		if err == nil {
			s, err = popArgument(ctx, what)
		}
		return s
	}
	f.packet = strings.ToLower(next("the packet, such as publish,"))
	f.name = strings.ToLower(next("the property's name"))
	if f.name == "user-property" {
		f.key = next("the property's key")
	}
	if f.value = next("the property's value"); err != nil {
		return err
	}
	if _, ok := packetWords[f.packet]; !ok {
		return fmt.Errorf("no packet %q%s", f.packet, text.DidYouMean(f.packet, slices.Collect(maps.Keys(packetWords))))
	}
	if _, ok := propertyWords[f.name]; !ok {
		return fmt.Errorf("no property %q%s", f.name, text.DidYouMean(f.name, slices.Collect(maps.Keys(propertyWords))))
	}
	*p = append(*p, f)
	return nil
}

// suggest implements suggester: packet, property, and one or two values.
func (p propFlags) suggest(before []string) []suggestion {
	switch {
	case len(before) == 0:
		return suggestWords(slices.Sorted(maps.Keys(packetWords))...)
	case len(before) == 1:
		return suggestWords(slices.Sorted(maps.Keys(propertyWords))...)
	case len(before) == 2, len(before) == 3 && strings.EqualFold(before[1], "user-property"):
		return []suggestion{} // anything
	}
	return nil
}

// of returns those of one packet.
func (p propFlags) of(packet string) (fs propFlags) {
	for _, f := range p {
		if f.packet == packet {
			fs = append(fs, f)
		}
	}
	return fs
}

// properties encodes and checks those of one packet.
func (p propFlags) properties(packet string) (encoded mqtt.Properties, err error) {
	for _, f := range p.of(packet) {
		if encoded, err = f.append(encoded); err != nil {
			return nil, fmt.Errorf("-D %s %s: %w", f.packet, f.name, err)
		}
	}
	if packet == "will" {
		err = checkWillProperties(encoded)
	} else {
		_, err = mqtt.ParseProperties(encoded, packetWords[packet])
	}
	if _, ok := encoded.Int(mqtt.SubscriptionIdentifier); ok && packet == "publish" {
		err = errors.New("only a broker sends a subscription identifier")
	}
	if err != nil {
		return nil, fmt.Errorf("-D %s: %w", packet, err)
	}
	return encoded, nil
}

func (f propFlag) append(p mqtt.Properties) (mqtt.Properties, error) {
	if len(f.key) > math.MaxUint16 || len(f.value) > math.MaxUint16 {
		return nil, errors.New("is longer than 65535 bytes")
	}
	w := propertyWords[f.name]
	switch {
	case w.id == mqtt.UserProperty:
		return p.WithUser(f.key, f.value), nil
	case w.most == 0:
		return p.WithString(w.id, f.value), nil
	}
	n, err := strconv.ParseUint(f.value, 10, 32)
	if err != nil || n > w.most {
		return nil, fmt.Errorf("%q is not a number from 0 to %d", f.value, w.most)
	}
	return p.WithInt(w.id, uint32(n)), nil
}

// checkWillProperties lets the codec read a CONNECT with such a will.
func checkWillProperties(p mqtt.Properties) error {
	c := mqtt.Connect{Version: mqtt.V5, Will: &mqtt.Will{Topic: "t", Props: p}}
	f, _, err := mqtt.ParseFrame(c.Append(nil), mqtt.V5, mqtt.MaxPacket)
	if err != nil {
		return err
	}
	return new(mqtt.Connect).Parse(f)
}

// ofMessage returns those of a PUBLISH that travel with the message, and its expiry in seconds, nil for none. They were checked.
func (p propFlags) ofMessage() (props mqtt.Properties, expiry *uint32) {
	props, _ = p.properties("publish")
	if e, ok := props.Int(mqtt.MessageExpiryInterval); ok {
		expiry = &e
	}
	return props.Without(mqtt.MessageExpiryInterval), expiry
}
