package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// reasonRules is table 2-6 of the specification, read once more.
var reasonRules = []struct {
	code   ReasonCode
	wire   byte
	places string
}{
	{Success, 0x00, "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"},
	{GrantedQoS1, 0x01, "SUBACK"},
	{GrantedQoS2, 0x02, "SUBACK"},
	{DisconnectWithWill, 0x04, "DISCONNECT"},
	{NoMatchingSubscribers, 0x10, "PUBACK PUBREC"},
	{NoSubscriptionExisted, 0x11, "UNSUBACK"},
	{ContinueAuthentication, 0x18, "AUTH"},
	{ReAuthenticate, 0x19, "AUTH"},
	{UnspecifiedError, 0x80, "CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT"},
	{MalformedPacket, 0x81, "CONNACK DISCONNECT"},
	{ProtocolError, 0x82, "CONNACK DISCONNECT"},
	{ImplementationSpecificError, 0x83, "CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT"},
	{UnsupportedProtocolVersion, 0x84, "CONNACK"},
	{ClientIdentifierNotValid, 0x85, "CONNACK"},
	{BadUserNameOrPassword, 0x86, "CONNACK"},
	{NotAuthorized, 0x87, "CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT"},
	{ServerUnavailable, 0x88, "CONNACK"},
	{ServerBusy, 0x89, "CONNACK DISCONNECT"},
	{Banned, 0x8A, "CONNACK"},
	{ServerShuttingDown, 0x8B, "DISCONNECT"},
	{BadAuthenticationMethod, 0x8C, "CONNACK DISCONNECT"},
	{KeepAliveTimeout, 0x8D, "DISCONNECT"},
	{SessionTakenOver, 0x8E, "DISCONNECT"},
	{TopicFilterInvalid, 0x8F, "SUBACK UNSUBACK DISCONNECT"},
	{TopicNameInvalid, 0x90, "CONNACK PUBACK PUBREC DISCONNECT"},
	{PacketIdentifierInUse, 0x91, "PUBACK PUBREC SUBACK UNSUBACK"},
	{PacketIdentifierNotFound, 0x92, "PUBREL PUBCOMP"},
	{ReceiveMaximumExceeded, 0x93, "DISCONNECT"},
	{TopicAliasInvalid, 0x94, "DISCONNECT"},
	{PacketTooLarge, 0x95, "CONNACK DISCONNECT"},
	{MessageRateTooHigh, 0x96, "DISCONNECT"},
	{QuotaExceeded, 0x97, "CONNACK PUBACK PUBREC SUBACK DISCONNECT"},
	{AdministrativeAction, 0x98, "DISCONNECT"},
	{PayloadFormatInvalid, 0x99, "CONNACK PUBACK PUBREC DISCONNECT"},
	{RetainNotSupported, 0x9A, "CONNACK DISCONNECT"},
	{QoSNotSupported, 0x9B, "CONNACK DISCONNECT"},
	{UseAnotherServer, 0x9C, "CONNACK DISCONNECT"},
	{ServerMoved, 0x9D, "CONNACK DISCONNECT"},
	{SharedSubscriptionsNotSupported, 0x9E, "SUBACK DISCONNECT"},
	{ConnectionRateExceeded, 0x9F, "CONNACK DISCONNECT"},
	{MaximumConnectTime, 0xA0, "DISCONNECT"},
	{SubscriptionIdentifiersNotSupported, 0xA1, "SUBACK DISCONNECT"},
	{WildcardSubscriptionsNotSupported, 0xA2, "SUBACK DISCONNECT"},
}

// Every value in every packet that has a reason code: CONNACK [MQTT-3.2.2-8], PUBACK [MQTT-3.4.2-1], PUBREC
// [MQTT-3.5.2-1], PUBREL [MQTT-3.6.2-1], PUBCOMP [MQTT-3.7.2-1], SUBACK [MQTT-3.9.3-2], UNSUBACK [MQTT-3.11.3-2],
// DISCONNECT [MQTT-3.14.2-1], AUTH [MQTT-3.15.2-1].
func TestReasonCodePlaces(t *testing.T) {
	places := map[byte]string{}
	for _, rule := range reasonRules {
		if byte(rule.code) != rule.wire {
			t.Errorf("%v should be 0x%02X", rule.code.Error(), rule.wire)
		}
		places[rule.wire] = rule.places
	}
	for place, around := range map[string]struct {
		first         byte
		before, after string
	}{
		"CONNACK":    {0x20, "00", "00"},
		"PUBACK":     {0x40, "0001", ""},
		"PUBREC":     {0x50, "0001", ""},
		"PUBREL":     {0x62, "0001", ""},
		"PUBCOMP":    {0x70, "0001", ""},
		"SUBACK":     {0x90, "0001 00 00", ""},
		"UNSUBACK":   {0xB0, "0001 00 00", ""},
		"DISCONNECT": {0xE0, "", ""},
		"AUTH":       {0xF0, "", "04 15 0001 'm'"},
	} {
		for code := range 256 {
			p, err := parse(packetOf(around.first, hex(around.before), []byte{byte(code)}, hex(around.after)), V5)
			if allowed(places[byte(code)], place) {
				if err != nil || codeOf(p) != ReasonCode(code) {
					t.Errorf("0x%02X in %s: got %s, error %v", code, place, show(p), err)
				}
				continue
			}
			t.Run(fmt.Sprintf("0x%02X in %s", code, place), func(t *testing.T) { checkCode(t, p, err, MalformedPacket) })
		}
	}
}

// codeOf returns the last reason code of a packet.
func codeOf(p any) ReasonCode {
	switch p := p.(type) {
	case *Connack:
		return p.Code
	case *Ack:
		return p.Code
	case *Suback:
		return p.Codes[len(p.Codes)-1]
	case *Unsuback:
		return p.Codes[len(p.Codes)-1]
	case *Disconnect:
		return p.Code
	case *Auth:
		return p.Code
	}
	panic("packet without a reason code")
}

// A code is an error that shows its value, and a failure from 0x80 on (§2.4).
func TestReasonCodeIsAnError(t *testing.T) {
	words := map[string]ReasonCode{}
	for _, rule := range reasonRules {
		s := rule.code.String()
		if other, taken := words[s]; taken {
			t.Errorf("0x%02X and 0x%02X are both %q", rule.wire, byte(other), s)
		}
		words[s] = rule.code
		if want := fmt.Sprintf("%s (0x%02X)", s, rule.wire); rule.code.Error() != want {
			t.Errorf("error is %q, want %q", rule.code.Error(), want)
		}
		if first := s[:1]; first != strings.ToLower(first) && first != "Q" {
			t.Errorf("%q starts with a capital", s)
		}
		if rule.code.Failed() != (rule.wire >= 0x80) {
			t.Errorf("%s: Failed is %t", rule.code, rule.code.Failed())
		}
	}
	err := fmt.Errorf("connection 1: %w", wrong(ProtocolError, "a rule"))
	var code ReasonCode
	if !errors.As(err, &code) || code != ProtocolError || errors.Is(err, MalformedPacket) {
		t.Errorf("%v is taken for %v", err, code.Error())
	}
}

func TestReasonCodeUnknown(t *testing.T) {
	const c = ReasonCode(0x7F)
	if c.String() != "0x7F" || c.Error() != "reason code 0x7F" || c.Failed() {
		t.Errorf("got %q, %q, %t", c.String(), c.Error(), c.Failed())
	}
}
