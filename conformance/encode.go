package conformance

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// packetNames is indexed by the type in the fixed header.
var packetNames = []string{"", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
	"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

// description is a packet as a script writes it: fields, and Reason Codes.
type description struct {
	name   string
	fields []field
	codes  []byte
}

// describe reads the words after a packet's name.
func describe(name string, words []string, vars map[string]string) (*description, error) {
	d := &description{name: name}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok {
			code, err := hex.DecodeString(w)
			if err != nil || len(code) != 1 {
				return nil, fmt.Errorf("%s is neither a field nor a Reason Code", w)
			}
			d.codes = append(d.codes, code[0])
			continue
		}
		text, err := textOf(value, vars)
		if err != nil {
			return nil, err
		}
		d.fields = append(d.fields, field{key, text})
	}
	return d, nil
}

// get returns the last field of that name, or the default.
func (d *description) get(name, otherwise string) string {
	for _, f := range slices.Backward(d.fields) {
		if f.name == name {
			return f.value
		}
	}
	return otherwise
}

// flag returns a field that is a small number, zero when absent.
func (d *description) flag(name string) byte {
	n, _ := strconv.Atoi(d.get(name, "0"))
	return byte(n)
}

func (d *description) has(name string) bool {
	return slices.ContainsFunc(d.fields, func(f field) bool { return f.name == name })
}

func (d *description) code() byte {
	if len(d.codes) == 0 {
		return 0
	}
	return d.codes[0]
}

// encodeWords encodes what a script sends: a packet by name, or bytes.
func encodeWords(v Version, words []string, vars map[string]string) ([]byte, error) {
	switch {
	case len(words) == 0:
		return nil, fmt.Errorf("nothing to send")
	case words[0] == "text" && len(words) == 2:
		text, err := textOf(words[1], vars)
		return []byte(text), err
	case slices.Contains(packetNames, words[0]):
		return encodePacket(v, words[0], words[1:], vars)
	}
	return encodeBytes(words, vars)
}

// encodePacket encodes a packet that is well formed, though its values need not be.
func encodePacket(v Version, name string, words []string, vars map[string]string) ([]byte, error) {
	d, err := describe(name, words, vars)
	if err != nil {
		return nil, err
	}
	e := encoder{version: v, d: d}
	e.packet()
	if e.err != nil {
		return nil, e.err
	}
	first := byte(slices.Index(packetNames, name))<<4 | e.flags
	return append(appendVarint([]byte{first}, len(e.body)), e.body...), nil
}

// encoder builds the part of a packet after the fixed header.
type encoder struct {
	version Version
	d       *description
	flags   byte
	body    []byte
	err     error
}

func (e *encoder) packet() {
	switch e.d.name {
	case "CONNECT":
		e.connect()
	case "CONNACK":
		e.body = append(e.body, e.d.flag("sp"), e.d.code())
		e.properties("")
	case "PUBLISH":
		e.publish()
	case "PUBACK", "PUBREC", "PUBCOMP":
		e.ack()
	case "PUBREL":
		e.flags = 2
		e.ack()
	case "SUBSCRIBE", "UNSUBSCRIBE":
		e.flags = 2
		e.subscribe()
	case "SUBACK", "UNSUBACK":
		e.id()
		e.properties("")
		e.body = append(e.body, e.d.codes...)
	case "DISCONNECT", "AUTH":
		e.reason()
	}
}

func (e *encoder) connect() {
	name := "MQTT"
	if e.version == V31 {
		name = "MQIsdp"
	}
	e.string(name)
	e.body = append(e.body, byte(e.version), e.connectFlags())
	e.uint16(e.d.get("keepalive", "0"))
	e.properties("")
	e.string(e.d.get("id", ""))
	if e.d.has("will") {
		e.properties("will-")
		e.string(e.d.get("will", ""))
		e.string(e.d.get("will-payload", ""))
	}
	if e.d.has("user") {
		e.string(e.d.get("user", ""))
	}
	if e.d.has("pass") {
		e.string(e.d.get("pass", ""))
	}
}

func (e *encoder) connectFlags() byte {
	var flags byte
	if e.d.get("clean", "1") == "1" {
		flags |= 0x02
	}
	if e.d.has("will") {
		flags |= 0x04
	}
	flags |= e.d.flag("will-qos")<<3 | e.d.flag("will-retain")<<5
	if e.d.has("pass") {
		flags |= 0x40
	}
	if e.d.has("user") {
		flags |= 0x80
	}
	return flags
}

func (e *encoder) publish() {
	qos := e.d.flag("qos")
	e.flags = e.d.flag("dup")<<3 | qos<<1 | e.d.flag("retain")
	e.string(e.d.get("topic", ""))
	if qos > 0 {
		e.id()
	}
	e.properties("")
	e.body = append(e.body, e.d.get("payload", "")...)
}

func (e *encoder) ack() {
	e.id()
	if e.version != V5 || len(e.d.codes) == 0 && len(e.d.fields) == 1 {
		return
	}
	e.body = append(e.body, e.d.code())
	e.properties("")
}

func (e *encoder) reason() {
	if e.version != V5 || len(e.d.codes) == 0 && len(e.d.fields) == 0 {
		return
	}
	e.body = append(e.body, e.d.code())
	e.properties("")
}

// subscribe encodes the filters, each with the options that follow it.
func (e *encoder) subscribe() {
	e.id()
	e.properties("")
	options := -1
	for _, f := range e.d.fields {
		shift := map[string]int{"qos": 0, "nl": 2, "rap": 3, "rh": 4}
		bit, isOption := shift[f.name]
		switch {
		case f.name == "filter":
			e.string(f.value)
			if e.d.name == "SUBSCRIBE" {
				e.body = append(e.body, 0)
				options = len(e.body) - 1
			}
		case isOption && options < 0:
			e.err = fmt.Errorf("%s before the first filter", f.name)
		case isOption:
			n, err := strconv.Atoi(f.value)
			if err != nil {
				e.err = err
			}
			e.body[options] |= byte(n << bit)
		}
	}
}

func (e *encoder) id() {
	e.uint16(e.d.get("id", ""))
}

func (e *encoder) uint16(text string) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		e.err = err
	}
	e.body = append(e.body, byte(n>>8), byte(n))
}

func (e *encoder) string(s string) {
	e.body = appendString(e.body, s)
}

// fieldNames are the fields that are not properties.
var fieldNames = []string{"id", "clean", "keepalive", "user", "pass", "will", "will-payload", "will-qos", "will-retain",
	"topic", "payload", "qos", "retain", "dup", "filter", "nl", "rap", "rh", "sp"}

// properties encodes those fields whose names begin with the prefix, in version 5.
func (e *encoder) properties(prefix string) {
	var b []byte
	for _, f := range e.d.fields {
		name, ok := strings.CutPrefix(f.name, prefix)
		if slices.Contains(fieldNames, f.name) || !ok || prefix == "" && e.isWill(name) {
			continue
		}
		p, ok := propertyNamed(name)
		if !ok {
			e.err = fmt.Errorf("no field or property is called %s", f.name)
			return
		}
		if b, e.err = appendProperty(b, p, field{name, f.value}); e.err != nil {
			return
		}
	}
	if e.version == V5 {
		e.body = append(appendVarint(e.body, len(b)), b...)
	}
}

func (e *encoder) isWill(name string) bool {
	return e.d.name == "CONNECT" && strings.HasPrefix(name, "will-")
}
