package mqtt

import "fmt"

// ReasonCode is the result of an operation as MQTT 5.0 puts it on the wire (§2.4). It is an error: codes of 0x80 and
// above are failures. MQTT 3 has no such codes; CONNACK and SUBACK map to what it has, everything else closes the connection.
type ReasonCode byte

// The reason codes of §2.4. GrantedQoS0 and NormalDisconnection share the value of Success.
const (
	Success                             ReasonCode = 0x00
	GrantedQoS1                         ReasonCode = 0x01
	GrantedQoS2                         ReasonCode = 0x02
	DisconnectWithWill                  ReasonCode = 0x04
	NoMatchingSubscribers               ReasonCode = 0x10
	NoSubscriptionExisted               ReasonCode = 0x11
	ContinueAuthentication              ReasonCode = 0x18
	ReAuthenticate                      ReasonCode = 0x19
	UnspecifiedError                    ReasonCode = 0x80
	MalformedPacket                     ReasonCode = 0x81
	ProtocolError                       ReasonCode = 0x82
	ImplementationSpecificError         ReasonCode = 0x83
	UnsupportedProtocolVersion          ReasonCode = 0x84
	ClientIdentifierNotValid            ReasonCode = 0x85
	BadUserNameOrPassword               ReasonCode = 0x86
	NotAuthorized                       ReasonCode = 0x87
	ServerUnavailable                   ReasonCode = 0x88
	ServerBusy                          ReasonCode = 0x89
	Banned                              ReasonCode = 0x8A
	ServerShuttingDown                  ReasonCode = 0x8B
	BadAuthenticationMethod             ReasonCode = 0x8C
	KeepAliveTimeout                    ReasonCode = 0x8D
	SessionTakenOver                    ReasonCode = 0x8E
	TopicFilterInvalid                  ReasonCode = 0x8F
	TopicNameInvalid                    ReasonCode = 0x90
	PacketIdentifierInUse               ReasonCode = 0x91
	PacketIdentifierNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded              ReasonCode = 0x93
	TopicAliasInvalid                   ReasonCode = 0x94
	PacketTooLarge                      ReasonCode = 0x95
	MessageRateTooHigh                  ReasonCode = 0x96
	QuotaExceeded                       ReasonCode = 0x97
	AdministrativeAction                ReasonCode = 0x98
	PayloadFormatInvalid                ReasonCode = 0x99
	RetainNotSupported                  ReasonCode = 0x9A
	QoSNotSupported                     ReasonCode = 0x9B
	UseAnotherServer                    ReasonCode = 0x9C
	ServerMoved                         ReasonCode = 0x9D
	SharedSubscriptionsNotSupported     ReasonCode = 0x9E
	ConnectionRateExceeded              ReasonCode = 0x9F
	MaximumConnectTime                  ReasonCode = 0xA0
	SubscriptionIdentifiersNotSupported ReasonCode = 0xA1
	WildcardSubscriptionsNotSupported   ReasonCode = 0xA2
)

type packetSet uint32

func in(types ...PacketType) (s packetSet) {
	for _, t := range types {
		s |= 1 << t
	}
	return s
}

func (s packetSet) has(t PacketType) bool { return s>>t&1 != 0 }

// reasons holds the words of each code and the packets that may carry it (§2.4, table 2-6).
var reasons = map[ReasonCode]struct {
	words string
	in    packetSet
}{
	Success:                             {"success", in(CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH)},
	GrantedQoS1:                         {"granted QoS 1", in(SUBACK)},
	GrantedQoS2:                         {"granted QoS 2", in(SUBACK)},
	DisconnectWithWill:                  {"disconnect with will message", in(DISCONNECT)},
	NoMatchingSubscribers:               {"no matching subscribers", in(PUBACK, PUBREC)},
	NoSubscriptionExisted:               {"no subscription existed", in(UNSUBACK)},
	ContinueAuthentication:              {"continue authentication", in(AUTH)},
	ReAuthenticate:                      {"re-authenticate", in(AUTH)},
	UnspecifiedError:                    {"unspecified error", in(CONNACK, PUBACK, PUBREC, SUBACK, UNSUBACK, DISCONNECT)},
	MalformedPacket:                     {"malformed packet", in(CONNACK, DISCONNECT)},
	ProtocolError:                       {"protocol error", in(CONNACK, DISCONNECT)},
	ImplementationSpecificError:         {"implementation specific error", in(CONNACK, PUBACK, PUBREC, SUBACK, UNSUBACK, DISCONNECT)},
	UnsupportedProtocolVersion:          {"unsupported protocol version", in(CONNACK)},
	ClientIdentifierNotValid:            {"client identifier not valid", in(CONNACK)},
	BadUserNameOrPassword:               {"bad user name or password", in(CONNACK)},
	NotAuthorized:                       {"not authorized", in(CONNACK, PUBACK, PUBREC, SUBACK, UNSUBACK, DISCONNECT)},
	ServerUnavailable:                   {"server unavailable", in(CONNACK)},
	ServerBusy:                          {"server busy", in(CONNACK, DISCONNECT)},
	Banned:                              {"banned", in(CONNACK)},
	ServerShuttingDown:                  {"server shutting down", in(DISCONNECT)},
	BadAuthenticationMethod:             {"bad authentication method", in(CONNACK, DISCONNECT)},
	KeepAliveTimeout:                    {"keep alive timeout", in(DISCONNECT)},
	SessionTakenOver:                    {"session taken over", in(DISCONNECT)},
	TopicFilterInvalid:                  {"topic filter invalid", in(SUBACK, UNSUBACK, DISCONNECT)},
	TopicNameInvalid:                    {"topic name invalid", in(CONNACK, PUBACK, PUBREC, DISCONNECT)},
	PacketIdentifierInUse:               {"packet identifier in use", in(PUBACK, PUBREC, SUBACK, UNSUBACK)},
	PacketIdentifierNotFound:            {"packet identifier not found", in(PUBREL, PUBCOMP)},
	ReceiveMaximumExceeded:              {"receive maximum exceeded", in(DISCONNECT)},
	TopicAliasInvalid:                   {"topic alias invalid", in(DISCONNECT)},
	PacketTooLarge:                      {"packet too large", in(CONNACK, DISCONNECT)},
	MessageRateTooHigh:                  {"message rate too high", in(DISCONNECT)},
	QuotaExceeded:                       {"quota exceeded", in(CONNACK, PUBACK, PUBREC, SUBACK, DISCONNECT)},
	AdministrativeAction:                {"administrative action", in(DISCONNECT)},
	PayloadFormatInvalid:                {"payload format invalid", in(CONNACK, PUBACK, PUBREC, DISCONNECT)},
	RetainNotSupported:                  {"retain not supported", in(CONNACK, DISCONNECT)},
	QoSNotSupported:                     {"QoS not supported", in(CONNACK, DISCONNECT)},
	UseAnotherServer:                    {"use another server", in(CONNACK, DISCONNECT)},
	ServerMoved:                         {"server moved", in(CONNACK, DISCONNECT)},
	SharedSubscriptionsNotSupported:     {"shared subscriptions not supported", in(SUBACK, DISCONNECT)},
	ConnectionRateExceeded:              {"connection rate exceeded", in(CONNACK, DISCONNECT)},
	MaximumConnectTime:                  {"maximum connect time", in(DISCONNECT)},
	SubscriptionIdentifiersNotSupported: {"subscription identifiers not supported", in(SUBACK, DISCONNECT)},
	WildcardSubscriptionsNotSupported:   {"wildcard subscriptions not supported", in(SUBACK, DISCONNECT)},
}

// Error returns the specification's words and the value, such as "malformed packet (0x81)".
func (c ReasonCode) Error() string {
	if r, ok := reasons[c]; ok {
		return fmt.Sprintf("%s (0x%02X)", r.words, byte(c))
	}
	return fmt.Sprintf("reason code 0x%02X", byte(c))
}

// String returns the specification's words, such as "malformed packet".
func (c ReasonCode) String() string {
	if r, ok := reasons[c]; ok {
		return r.words
	}
	return fmt.Sprintf("0x%02X", byte(c))
}

// Failed reports whether the code says that the operation did not succeed (§2.4).
func (c ReasonCode) Failed() bool { return c >= 0x80 }

// allowedIn reports whether a packet of type t may carry the code.
func (c ReasonCode) allowedIn(t PacketType) bool {
	if c == Success { // the hot case
		return true
	}
	return reasons[c].in.has(t)
}

// wrong makes an error out of a code and the rule that was broken.
func wrong(c ReasonCode, rule string) error { return fmt.Errorf("%w: %s", c, rule) }

// connectReturn maps codes to the return codes of a CONNACK of MQTT 3 ([v3.1.1] §3.2.2.3).
var connectReturn = map[ReasonCode]byte{
	Success:                    0,
	UnsupportedProtocolVersion: 1,
	ClientIdentifierNotValid:   2,
	ServerUnavailable:          3, ServerBusy: 3, ConnectionRateExceeded: 3, QuotaExceeded: 3, UseAnotherServer: 3, ServerMoved: 3,
	BadUserNameOrPassword: 4,
	NotAuthorized:         5, Banned: 5,
}

// connectReason maps the return codes of a CONNACK of MQTT 3 back; the index is the return code.
var connectReason = [...]ReasonCode{
	Success, UnsupportedProtocolVersion, ClientIdentifierNotValid, ServerUnavailable, BadUserNameOrPassword, NotAuthorized,
}

// HasConnackV3 reports whether MQTT 3 has a CONNACK return code for c. Where it has none, the server closes the
// connection without a CONNACK ([v3.1.1 MQTT-3.2.2-6], [v3.1.1 MQTT-4.8.0-1]).
func (c ReasonCode) HasConnackV3() bool {
	_, ok := connectReturn[c]
	return ok
}
