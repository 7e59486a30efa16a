package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

// printing is one message being printed to b.
type printing struct {
	*client.Delivery
	b       []byte
	careful bool                // escape what could command a terminal
	pretty  bool                // indent JSON
	encode  func([]byte) string // of the payload; nil leaves it as it is
	now     time.Time
	skip    string // why the message cannot be printed
}

// literal appends what the user wrote.
func (p *printing) literal(s string) { p.b = append(p.b, s...) }

// foreign appends what came from outside.
func (p *printing) foreign(s string) {
	if p.careful {
		s = harmless(s)
	}
	p.b = append(p.b, s...)
}

// harmless escapes what a terminal could take for a command or cannot show. Unlike text.Escape it leaves lines, tabs and backslashes
// as they are: this is a payload for reading.
func harmless(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += n
	}
	return b.String()
}

func printPayload(p *printing) { p.foreign(p.body()) }

// body is the payload as it is shown where no format says how.
func (p *printing) body() string {
	payload := p.Message.Payload
	if p.encode != nil {
		return p.encode(payload)
	}
	if p.pretty && json.Valid(payload) {
		var b bytes.Buffer
		_ = json.Indent(&b, payload, "", "  ") // is valid
		return b.String()
	}
	return string(payload)
}

// printVerbose prints topic and payload like mosquitto_sub, whose word for an empty payload is (null).
func printVerbose(p *printing) {
	p.foreign(strings.ReplaceAll(p.Message.Topic, "\n", `\n`))
	p.literal(" ")
	if len(p.Message.Payload) == 0 {
		p.literal("(null)")
	}
	printPayload(p)
}

func printJSON(p *printing) {
	p.object(jsonOf(p.Delivery, p.now))
}

// object appends a message as JSON, with < > & as they are: it goes to no web page.
func (p *printing) object(j jsonMessage) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if p.pretty {
		e.SetIndent("", "  ")
	}
	if err := e.Encode(j); err != nil {
		p.skip = fmt.Sprintf("message on %q: %v", p.Message.Topic, err)
		return
	}
	p.foreign(strings.TrimSuffix(b.String(), "\n"))
}

// jsonMessage is a message of --json and %j. The names are mosquitto_sub's, where it has one.
type jsonMessage struct {
	Time       string         `json:"tst"`
	Topic      string         `json:"topic"`
	QoS        mqtt.QoS       `json:"qos"`
	Retain     int            `json:"retain"`
	PacketID   uint16         `json:"mid,omitempty"`
	Properties map[string]any `json:"properties,omitempty"`
	Length     int            `json:"payloadlen"`
	Payload    any            `json:"payload,omitempty"`        // text; of %J any JSON
	Base64     string         `json:"payload_base64,omitempty"` // instead, when the payload is not UTF-8
}

func jsonOf(d *client.Delivery, now time.Time) jsonMessage {
	m := d.Message
	j := jsonMessage{
		Time: now.Format("2006-01-02T15:04:05.000000Z0700"), Topic: m.Topic, QoS: m.QoS, PacketID: d.PacketID,
		Length: len(m.Payload), Properties: jsonProperties(d, now),
	}
	if m.Retain {
		j.Retain = 1
	}
	if utf8.Valid(m.Payload) {
		j.Payload = string(m.Payload)
	} else {
		j.Base64 = base64.StdEncoding.EncodeToString(m.Payload)
	}
	return j
}

func jsonProperties(d *client.Delivery, now time.Time) map[string]any {
	props := make(map[string]any)
	m := d.Message
	if v, ok := m.Props.Int(mqtt.PayloadFormatIndicator); ok {
		props["payload-format-indicator"] = v
	}
	if v, ok := m.Remaining(now); ok {
		props["message-expiry-interval"] = v
	}
	for name, id := range map[string]mqtt.Property{"content-type": mqtt.ContentType, "response-topic": mqtt.ResponseTopic} {
		if v, ok := m.Props.Bytes(id); ok {
			props[name] = string(v)
		}
	}
	if v, ok := m.Props.Bytes(mqtt.CorrelationData); ok {
		props["correlation-data"] = string(v)
		if !utf8.Valid(v) {
			delete(props, "correlation-data")
			props["correlation-data_base64"] = v // []byte becomes base64
		}
	}
	if len(d.IDs) > 0 {
		props["subscription-identifier"] = d.IDs
	}
	var user []map[string]string // a list keeps order and repetition
	for k, v := range m.Props.User() {
		user = append(user, map[string]string{k: v})
	}
	if user != nil {
		props["user-property"] = user
	}
	return props
}

// token is one replaced sequence of a format.
type token struct {
	letter    byte
	left      bool // pad on the right
	zero      bool // pad with zeros
	width     int
	precision int // longest text, in characters; -1 for any
}

// mostWidth is the largest field width.
const mostWidth = 10_000

// parseFormat compiles a format of mosquitto_sub: sequences of %, @ and \.
func parseFormat(format string) (func(*printing), error) {
	var steps []func(*printing)
	for s := format; s != ""; {
		i := strings.IndexAny(s, `%@\`)
		if i != 0 {
			if i < 0 {
				i = len(s)
			}
			literal := s[:i]
			steps = append(steps, func(p *printing) { p.literal(literal) })
			s = s[i:]
			continue
		}
		step, n, err := parseSequence(s)
		if err != nil {
			return nil, fmt.Errorf("-F: %w", err)
		}
		steps = append(steps, step)
		s = s[n:]
	}
	return func(p *printing) {
		for _, step := range steps {
			step(p)
		}
	}, nil
}

// parseSequence reads the sequence at the beginning of s, which takes n bytes.
func parseSequence(s string) (step func(*printing), n int, err error) {
	if len(s) < 2 {
		return nil, 0, fmt.Errorf("%q at the end means nothing", s)
	}
	switch s[0] {
	case '%':
		return parseToken(s)
	case '@':
		step, err = clockStep(s[1])
		return step, 2, err
	}
	text, ok := map[byte]string{'\\': "\\", '0': "\x00", 'a': "\a", 'e': "\x1b", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v"}[s[1]]
	if !ok {
		return nil, 0, fmt.Errorf(`no such sequence: \%c`, s[1])
	}
	return func(p *printing) { p.literal(text) }, 2, nil
}

// parseToken reads %[flags][width][.precision]letter.
func parseToken(s string) (step func(*printing), n int, err error) {
	t := token{precision: -1}
	i := 1
	for ; i < len(s) && (s[i] == '-' || s[i] == '0'); i++ {
		t.left = t.left || s[i] == '-'
		t.zero = t.zero || s[i] == '0'
	}
	t.width, i = number(s, i, 0)
	if i < len(s) && s[i] == '.' {
		t.precision, i = number(s, i+1, 0)
	}
	if i == len(s) {
		return nil, 0, fmt.Errorf("%q has no letter", s)
	}
	if t.letter = s[i]; !strings.ContainsRune("%ACDEFIJPRSUXjlmpqrtx", rune(t.letter)) {
		return nil, 0, fmt.Errorf("no such sequence: %q", s[:i+1])
	}
	if t.width > mostWidth || t.precision > mostWidth {
		return nil, 0, errors.New("field width is larger than " + strconv.Itoa(mostWidth))
	}
	return t.print, i + 1, nil
}

// number reads digits at s[i:].
func number(s string, i, byDefault int) (value, next int) {
	value = byDefault
	for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		value = min(value*10+int(s[i]-'0'), math.MaxInt32)
	}
	return value, i
}

// print appends what the token stands for.
func (t token) print(p *printing) {
	switch t.letter {
	case '%':
		p.literal("%")
	case 'j':
		printJSON(p)
	case 'J':
		printRawJSON(p)
	case 'p':
		t.pad(p, string(p.Message.Payload), false)
	default:
		text, isNumber := t.value(p)
		t.pad(p, text, isNumber)
	}
}

// value returns the text of most tokens, and whether it is a number, which zeros may pad.
func (t token) value(p *printing) (text string, isNumber bool) {
	m := p.Message
	switch t.letter {
	case 'A': // aliases are resolved before anybody sees them
	case 'C':
		return m.Props.String(mqtt.ContentType), false
	case 'D':
		return m.Props.String(mqtt.CorrelationData), false
	case 'E':
		if v, ok := m.Remaining(p.now); ok {
			return strconv.FormatUint(uint64(v), 10), true
		}
	case 'F':
		if v, ok := m.Props.Int(mqtt.PayloadFormatIndicator); ok {
			return strconv.FormatUint(uint64(v), 10), true
		}
	case 'I':
		return p.now.Format("2006-01-02T15:04:05-0700"), false
	case 'P':
		return userWords(m.Props), false
	case 'R':
		return m.Props.String(mqtt.ResponseTopic), false
	case 'S':
		return strings.Trim(fmt.Sprint(p.IDs), "[]"), true
	case 'U':
		return fmt.Sprintf("%d.%09d", p.now.Unix(), p.now.Nanosecond()), false
	case 'X':
		return strings.ToUpper(hex.EncodeToString(m.Payload)), true
	case 'x':
		return hex.EncodeToString(m.Payload), true
	case 'l':
		return strconv.Itoa(len(m.Payload)), true
	case 'm':
		return strconv.Itoa(int(p.PacketID)), true
	case 'q':
		return strconv.Itoa(int(m.QoS)), true
	case 'r':
		if m.Retain {
			return "1", true
		}
		return "0", true
	case 't':
		return m.Topic, false
	}
	return "", false
}

// userWords returns the User Properties as key:value, separated by spaces.
func userWords(props mqtt.Properties) string {
	var words []string
	for k, v := range props.User() {
		words = append(words, k+":"+v)
	}
	return strings.Join(words, " ")
}

// pad appends text in its field.
func (t token) pad(p *printing, text string, isNumber bool) {
	if t.precision >= 0 && !isNumber {
		if runes := []rune(text); len(runes) > t.precision {
			text = string(runes[:t.precision])
		}
	}
	fill := " "
	if t.zero && isNumber && !t.left {
		fill = "0"
	}
	padding := strings.Repeat(fill, max(0, t.width-utf8.RuneCountInString(text)))
	if !t.left {
		p.literal(padding)
	}
	p.foreign(text)
	if t.left {
		p.literal(padding)
	}
}

// printRawJSON prints the message with its payload as JSON inside JSON.
func printRawJSON(p *printing) {
	if !json.Valid(p.Message.Payload) {
		p.skip = fmt.Sprintf("message on %q is not JSON", p.Message.Topic)
		return
	}
	j := jsonOf(p.Delivery, p.now)
	j.Payload, j.Base64 = json.RawMessage(p.Message.Payload), ""
	p.object(j)
}

// clockLayouts are the sequences of strftime that a Go layout can say.
var clockLayouts = map[byte]string{
	'A': "Monday", 'B': "January", 'D': "01/02/06", 'F': "2006-01-02", 'H': "15", 'I': "03", 'M': "04", 'R': "15:04", 'S': "05",
	'T': "15:04:05", 'Y': "2006", 'Z': "MST", 'a': "Mon", 'b': "Jan", 'c': "Mon Jan _2 15:04:05 2006", 'd': "02", 'e': "_2", 'j': "002",
	'm': "01", 'p': "PM", 'r': "03:04:05 PM", 'x': "01/02/06", 'y': "06", 'z': "-0700", 'X': "15:04:05",
}

// clockStep returns the step of an @ sequence.
func clockStep(letter byte) (func(*printing), error) {
	switch letter {
	case '@':
		return func(p *printing) { p.literal("@") }, nil
	case 'N':
		return func(p *printing) { p.literal(fmt.Sprintf("%09d", p.now.Nanosecond())) }, nil
	case 's':
		return func(p *printing) { p.literal(strconv.FormatInt(p.now.Unix(), 10)) }, nil
	}
	layout, ok := clockLayouts[letter]
	if !ok {
		return nil, fmt.Errorf("no such sequence: @%c", letter)
	}
	return func(p *printing) { p.literal(p.now.Format(layout)) }, nil
}
