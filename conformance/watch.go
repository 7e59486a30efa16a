package conformance

import (
	"fmt"
	"slices"
	"strconv"
)

// watch holds every packet of a server against the rules that need no script.
// It sees one network connection, both ways.
type watch struct {
	version   Version
	connected bool           // CONNACK 00 has come
	ended     bool           // a refusal or DISCONNECT has come: only EOF may follow
	inflight  map[string]int // packets the server has outstanding, by Packet Identifier: the QoS
	window    int            // Receive Maximum of the client
	maxPacket int            // of the client; zero means none
	aliases   map[string]bool
	aliasMax  int
	problem   bool   // Request Problem Information
	method    string // Authentication Method of the CONNECT
	keepID    bool   // the client sent its own ClientID
	resumed   bool   // Session Present: redelivery may happen
}

func newWatch(v Version) *watch {
	return &watch{version: v, inflight: map[string]int{}, aliases: map[string]bool{}, window: 65535, problem: true}
}

// connect notes what the CONNECT of the client said.
func (w *watch) connect(v Version, d *description) {
	w.version = v
	w.keepID = d.get("id", "") != ""
	if v != V5 {
		return
	}
	w.window = number(d.get("receive-max", "65535"))
	w.maxPacket = number(d.get("max-packet", "0"))
	w.aliasMax = number(d.get("alias-max", "0"))
	w.problem = d.get("request-problem", "1") == "1"
	w.method = d.get("auth-method", "")
}

// sent notes an acknowledgement of the client, which frees a Packet Identifier.
func (w *watch) sent(d *description) {
	id := d.get("id", "")
	failed := d.code() >= 0x80
	if d.name == "PUBACK" || d.name == "PUBCOMP" || d.name == "PUBREC" && failed {
		delete(w.inflight, id)
	}
}

// received checks one packet of the server.
func (w *watch) received(p *packet) error {
	rules := []func(*packet) error{w.first, w.last, w.codes, w.size, w.problems, w.connack, w.auth, w.publish}
	for _, rule := range rules {
		if err := rule(p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// first: CONNACK opens, once; only AUTH may come before it.
func (w *watch) first(p *packet) error {
	switch {
	case p.name == "CONNACK" && w.connected:
		return fmt.Errorf("second CONNACK [MQTT-3.2.0-2]")
	case p.name == "DISCONNECT" && !w.connected:
		return fmt.Errorf("a DISCONNECT before CONNACK [MQTT-3.14.0-1]")
	case !w.connected && p.name != "CONNACK" && p.name != "AUTH":
		return fmt.Errorf("the first packet is not CONNACK [MQTT-3.2.0-1] [v3.1.1 MQTT-3.2.0-1]")
	}
	return nil
}

// last: nothing follows a refusal or a DISCONNECT.
func (w *watch) last(p *packet) error {
	if w.ended {
		return fmt.Errorf("packet after the connection ended [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-3.2.2-7]")
	}
	refusal := p.name == "CONNACK" && p.code() != 0
	w.ended = refusal || p.name == "DISCONNECT"
	return nil
}

// allowed lists the Reason Codes a server may send, by packet.
var allowed = map[string][]byte{
	"CONNACK": {0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
		0x9A, 0x9B, 0x9C, 0x9D, 0x9F},
	"PUBACK":   {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	"PUBREC":   {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	"PUBREL":   {0x00, 0x92},
	"PUBCOMP":  {0x00, 0x92},
	"SUBACK":   {0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2},
	"UNSUBACK": {0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91},
	"DISCONNECT": {0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
		0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2},
	"AUTH": {0x00, 0x18},
}

// allowedV3 lists the return codes of the versions before 5.
var allowedV3 = map[string][]byte{
	"CONNACK": {0, 1, 2, 3, 4, 5},
	"SUBACK":  {0x00, 0x01, 0x02, 0x80}, // [v3.1.1 MQTT-3.9.3-2]
}

// codes: each packet has Reason Codes of its own.
// [MQTT-3.2.2-8] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
// [MQTT-3.9.3-2] [MQTT-3.11.3-2] [MQTT-3.14.2-1] [MQTT-3.15.2-1]
func (w *watch) codes(p *packet) error {
	table := allowed
	if w.version != V5 {
		table = allowedV3
	}
	for _, code := range p.codes {
		if p.name == "CONNACK" && (code == 0x84 || code == 1) {
			continue // a version we do not speak is answered in either form
		}
		if !slices.Contains(table[p.name], code) {
			return fmt.Errorf("%02X is not a Reason Code of %s", code, p.name)
		}
	}
	return nil
}

// size: the client's Maximum Packet Size holds for every packet.
// [MQTT-3.1.2-24] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3]
// [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2]
// [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2]
// [MQTT-3.14.2-3] [MQTT-3.14.2-4] [MQTT-3.15.2-2] [MQTT-3.15.2-3]
func (w *watch) size(p *packet) error {
	if w.maxPacket > 0 && len(p.raw) > w.maxPacket {
		return fmt.Errorf("it has %d bytes", len(p.raw))
	}
	return nil
}

// problems: Reason String and User Properties only where they are welcome.
func (w *watch) problems(p *packet) error {
	if w.problem || p.name == "PUBLISH" || p.name == "CONNACK" || p.name == "DISCONNECT" {
		return nil
	}
	if slices.ContainsFunc(p.fields, func(f field) bool { return f.name == "reason" || f.name[:min(5, len(f.name))] == "user:" }) {
		return fmt.Errorf("problem information was not asked for [MQTT-3.1.2-29]")
	}
	return nil
}

func (w *watch) connack(p *packet) error {
	if p.name != "CONNACK" {
		return nil
	}
	w.connected = p.code() == 0
	w.resumed = p.get("sp", "0") == "1" || w.version == V31 // which does not tell
	if p.get("sp", "0") == "1" && !w.connected {
		return fmt.Errorf("session present in a refusal [MQTT-3.2.2-6] [v3.1.1 MQTT-3.2.2-4]")
	}
	if w.keepID && p.has("assigned-id") {
		return fmt.Errorf("the client brought its own Client Identifier")
	}
	return nil
}

// auth: a client that named no method hears of none; one that did hears its own.
func (w *watch) auth(p *packet) error {
	if w.version != V5 || p.name != "AUTH" && p.name != "CONNACK" {
		return nil
	}
	method := p.get("auth-method", "")
	if w.method == "" && (p.name == "AUTH" || method != "") {
		return fmt.Errorf("the client asked for no authentication [MQTT-4.12.0-6]")
	}
	if method != w.method && (p.name == "AUTH" || p.code() == 0) {
		return fmt.Errorf("the Authentication Method is not that of CONNECT [MQTT-4.12.0-5]")
	}
	return nil
}

func (w *watch) publish(p *packet) error {
	switch id := p.get("id", ""); {
	case p.name == "PUBREL":
		w.inflight[id] = 2
		return nil
	case p.name != "PUBLISH":
		return nil
	case p.get("qos", "") == "0":
		if p.get("dup", "") == "1" {
			return fmt.Errorf("it has DUP at QoS 0 [MQTT-3.3.1-2] [MQTT-4.3.1-1] [v3.1.1 MQTT-3.3.1-2] [v3.1.1 MQTT-4.3.1-1]")
		}
	default:
		if err := w.acknowledged(p, id); err != nil {
			return err
		}
	}
	return w.alias(p)
}

// acknowledged: a fresh Packet Identifier, DUP only for a redelivery, and no
// more messages than the client can take.
func (w *watch) acknowledged(p *packet, id string) error {
	if _, used := w.inflight[id]; used {
		return fmt.Errorf("its Packet Identifier is in use, or the packet is sent again on one connection " +
			"[MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT-4.4.0-1] [v3.1.1 MQTT-2.3.1-4]")
	}
	if p.get("dup", "") == "1" && !w.resumed {
		return fmt.Errorf("it has DUP in a first delivery [MQTT-4.3.2-2] [MQTT-4.3.3-2] [v3.1.1 MQTT-4.3.2-1] [v3.1.1 MQTT-4.3.3-1]")
	}
	w.inflight[id] = number(p.get("qos", ""))
	if len(w.inflight) > w.window {
		return fmt.Errorf("more than Receive Maximum [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2]")
	}
	return nil
}

// alias: within the client's maximum, and known before it stands alone.
func (w *watch) alias(p *packet) error {
	alias := p.get("alias", "")
	if alias == "" {
		if p.get("topic", "") == "" {
			return fmt.Errorf("no Topic Name [MQTT-4.7.3-1]")
		}
		return nil
	}
	if n := number(alias); n == 0 || n > w.aliasMax {
		return fmt.Errorf("its Topic Alias is not allowed [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8] [MQTT-3.3.2-11]")
	}
	if p.get("topic", "") == "" && !w.aliases[alias] {
		return fmt.Errorf("its Topic Alias was never given [MQTT-3.3.2-7]")
	}
	w.aliases[alias] = true
	return nil
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // callers pass what the decoder or a checked script wrote
	return n
}
