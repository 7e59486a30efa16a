package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/magpiemq/magpie/cmd/magpie/internal/text"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// kindNames are the words for kinds of records, in the order of the kinds from 1 on.
var kindNames = []string{
	"session", "left", "ended", "subscribed", "unsubscribed", "accepted", "done", "sent", "received", "completed", "released",
	"will-gone", "moved", "queue", "inbound", "retained",
}

// logNames are those of the journal itself. Only what salvage left in place of lost records is shown unasked.
var logNames = []string{"start", "mark", "close", "end", "free", "anchor", "lost"}

// storeDumpCmd prints records.
type storeDumpCmd struct {
	storeDir
	JSON bool     `name:"json" help:"Print a JSON object per record, with all of its payload."`
	From place    `help:"Begin at this position, such as 00000001:4118: the segment's file and the offset in it." placeholder:"POSITION"`
	Kind []string `help:"Print only these kinds: ${kinds}; those of the journal itself: ${log_kinds}; or all." placeholder:"KIND"`
}

// Help is shown by kong below the usage line.
func (*storeDumpCmd) Help() string {
	return examples(
		"magpie store dump /var/lib/magpie | less", "everything, one record a line",
		"magpie store dump --kind retained --json", "retained messages of ./magpie-data, for programs",
		"magpie store dump --from 00000001:4118", "from that place on",
	)
}

// Run prints one line for each record. The exit code is 1 when some cannot be read.
func (c *storeDumpCmd) Run() error {
	if err := c.checkKinds(); err != nil {
		return err
	}
	dir, folder, err := c.find()
	if err != nil {
		return err
	}
	d := newDumper(c, os.Stdout)
	report, err := journal.Dump(vfs.OS{}, folder, d.record)
	if err := errors.Join(err, d.out.Flush()); err != nil {
		return err
	}
	for _, line := range losses(&report) {
		fmt.Fprintf(os.Stderr, "magpie: %s\n", line)
	}
	return d.judge(dir, folder, &report)
}

// checkKinds finds misspelt kinds.
func (c *storeDumpCmd) checkKinds() error {
	known := slices.Concat(kindNames, logNames, []string{"all"})
	for _, k := range c.Kind {
		if !slices.Contains(known, k) {
			return usagef("--kind: there is no kind %q of records%s", k, text.DidYouMean(k, known))
		}
	}
	return nil
}

// wants says whether records of a kind are printed.
func (c *storeDumpCmd) wants(kind string) bool {
	if len(c.Kind) == 0 {
		return kind == "lost" || !slices.Contains(logNames, kind)
	}
	return slices.Contains(c.Kind, kind) || slices.Contains(c.Kind, "all")
}

// dumper prints records.
type dumper struct {
	cmd     *storeDumpCmd
	out     *bufio.Writer
	clients map[store.SessionID]string // client ids of the sessions met so far
	parser
}

func newDumper(c *storeDumpCmd, w io.Writer) *dumper {
	return &dumper{cmd: c, out: bufio.NewWriterSize(w, 64<<10), clients: make(map[store.SessionID]string)}
}

// record prints one record if it is wanted. All of them are read, to know whose session is which.
func (d *dumper) record(e journal.Entry) error {
	kind, fields := e.Name, []field{{"bytes", len(e.Payload)}}
	if kind == "" {
		kind, fields = d.describe(e)
	}
	if e.Position < journal.Position(d.cmd.From) || !d.cmd.wants(kind) {
		return nil
	}
	fields = append([]field{{"position", place(e.Position)}, {"kind", kind}}, fields...)
	line := textLine(fields)
	if d.cmd.JSON {
		line = jsonLine(fields)
	}
	_, err := d.out.Write(append(line, '\n'))
	return err
}

// describe reads a record of the broker.
func (d *dumper) describe(e journal.Entry) (kind string, fields []field) {
	kind = kindName(store.Kind(e.Kind))
	if err := d.parse(e); err != nil {
		return kind, []field{{"error", err.Error()}, {"bytes", len(e.Payload)}}
	}
	if d.parsed.Kind == store.Session {
		d.clients[d.parsed.Session] = d.parsed.ClientID
	}
	return kind, recordFields(&d.parsed, d.clients)
}

func kindName(k store.Kind) string {
	if i := int(k) - 1; i >= 0 && i < len(kindNames) {
		return kindNames[i]
	}
	return fmt.Sprintf("kind-%d", k)
}

// field is one thing that a record tells. Values are numbers, strings, booleans, times and the types below.
type field struct {
	name  string
	value any
}

// recordFields lists what a record tells, those first that say whom it is about.
func recordFields(r *store.Record, clients map[store.SessionID]string) (fs []field) {
	add := func(name string, value any) { fs = append(fs, field{name, value}) }
	if r.Session != 0 {
		add("session", uint64(r.Session))
		if id, ok := clients[r.Session]; ok {
			add("client", id)
		}
	}
	if r.About != 0 {
		add("about", place(r.About))
	}
	if r.PacketID != 0 {
		add("packet_id", r.PacketID)
	}
	switch r.Kind {
	case store.Session:
		add("owner", r.Owner)
		add("version", r.Version.String())
		add("time", r.Time)
		add("expiry", span(r.Expiry))
		fs = append(fs, willFields(r.Will)...)
	case store.Left:
		add("time", r.Time)
		add("expiry", span(r.Expiry))
	case store.Subscribed:
		fs = append(fs, subscriptionFields(&r.Subscription, r.IDs)...)
	case store.Unsubscribed:
		add("filter", r.Subscription.Filter)
	case store.Accepted, store.Moved:
		fs = append(fs, messageFields("", r.Message)...)
		add("recipients", recipientList(r.Recipients))
	case store.Queue, store.Retained:
		add("messages", refList(r.Refs))
	case store.Inbound:
		add("packet_ids", r.PacketIDs)
	}
	return fs
}

// willFields describes a Will; there may be none.
func willFields(w *store.Will) []field {
	if w == nil {
		return nil
	}
	return append(messageFields("will_", w.Message), field{"will_delay", span(w.Delay)}, field{"will_expiry", span(w.Expiry)})
}

func subscriptionFields(s *mqtt.Subscription, ids []uint32) []field {
	return []field{
		{"filter", s.Filter}, {"qos", byte(s.QoS)}, {"no_local", s.NoLocal}, {"retain_as_published", s.RetainAsPublished},
		{"retain_handling", byte(s.RetainHandling)}, {"ids", ids},
	}
}

func messageFields(prefix string, m *mqtt.Message) []field {
	return []field{
		{prefix + "topic", m.Topic}, {prefix + "qos", byte(m.QoS)}, {prefix + "retain", m.Retain}, {prefix + "expires", m.Expires},
		{prefix + "publisher", m.Publisher}, {prefix + "payload", payload(m.Payload)},
	}
}

// place is a position as people read it: the segment as its file is named, and the offset in it.
type place journal.Position

// String is what UnmarshalText reads.
func (p place) String() string {
	return fmt.Sprintf("%08x:%d", journal.SegmentOf(journal.Position(p)), journal.OffsetOf(journal.Position(p)))
}

// MarshalText makes it a string in JSON.
func (p place) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads SEGMENT:OFFSET, with or without .seg, or the hexadecimal number that errors of the broker name.
func (p *place) UnmarshalText(b []byte) error {
	name, rest, split := strings.Cut(string(b), ":")
	if !split {
		n, err := strconv.ParseUint(name, 16, 64)
		if *p = place(n); err != nil {
			return fmt.Errorf("%q is not a position like 00000001:4118", b)
		}
		return nil
	}
	number, err := strconv.ParseUint(strings.TrimSuffix(name, ".seg"), 16, 32)
	offset, err2 := strconv.ParseUint(rest, 10, 32)
	if errors.Join(err, err2) != nil {
		return fmt.Errorf("%q is not a position like 00000001:4118", b)
	}
	*p = place(number<<32 | offset)
	return nil
}

// span is a time span; less than nothing stands for ever.
type span time.Duration

func (s span) String() string {
	if s < 0 {
		return "never"
	}
	return time.Duration(s).String()
}

// MarshalJSON makes it seconds, or null for never.
func (s span) MarshalJSON() ([]byte, error) {
	if s < 0 {
		return []byte("null"), nil
	}
	return json.Marshal(time.Duration(s).Seconds())
}

// payload is shown in part and escaped, but whole in JSON.
type payload []byte

const payloadShown = 64 // bytes

func (p payload) String() string {
	return `"` + strings.ReplaceAll(text.Payload(p, payloadShown), `"`, `\"`) + `"`
}

// recipientList is a number in text and a list in JSON. So is refList.
type recipientList []store.Recipient

func (l recipientList) String() string { return strconv.Itoa(len(l)) }

// MarshalJSON lists whom a message is for.
func (l recipientList) MarshalJSON() ([]byte, error) {
	type recipient struct {
		Session uint64   `json:"session"`
		QoS     byte     `json:"qos"`
		Retain  bool     `json:"retain,omitempty"`
		IDs     []uint32 `json:"ids,omitempty"`
		Share   string   `json:"share,omitempty"`
	}
	all := make([]recipient, 0, len(l))
	for _, r := range l {
		all = append(all, recipient{uint64(r.Session), byte(r.QoS), r.Retain, r.IDs, r.Share})
	}
	return json.Marshal(all)
}

type refList []store.Ref

func (l refList) String() string { return strconv.Itoa(len(l)) }

// MarshalJSON lists where the messages are.
func (l refList) MarshalJSON() ([]byte, error) {
	type ref struct {
		About    place  `json:"about"`
		QoS      byte   `json:"qos"`
		Retain   bool   `json:"retain,omitempty"`
		Shared   bool   `json:"shared,omitempty"`
		PacketID uint16 `json:"packet_id,omitempty"`
		Received bool   `json:"received,omitempty"`
	}
	all := make([]ref, 0, len(l))
	for _, r := range l {
		all = append(all, ref{place(r.About), byte(r.QoS), r.Retain, r.Shared, r.PacketID, r.Received})
	}
	return json.Marshal(all)
}

// idle says whether a value tells nothing: an empty word, a no, no time, an empty list of identifiers.
func idle(value any) bool {
	switch v := value.(type) {
	case string:
		return v == ""
	case bool:
		return !v
	case time.Time:
		return v.IsZero()
	case []uint32:
		return len(v) == 0
	}
	return false
}

// textLine is a line for people: position and kind, then name=value. Nothing in it can touch the terminal or look like another
// line.
func textLine(fs []field) []byte {
	b := fmt.Appendf(nil, "%v %v", fs[0].value, fs[1].value)
	for _, f := range fs[2:] {
		if idle(f.value) {
			continue
		}
		switch v := f.value.(type) {
		case string:
			b = fmt.Appendf(b, " %s=%s", f.name, word(v))
		case bool:
			b = fmt.Appendf(b, " %s", f.name)
		case time.Time:
			b = fmt.Appendf(b, " %s=%s", f.name, v.UTC().Format("2006-01-02T15:04:05.000Z"))
		case []uint16, []uint32:
			b = fmt.Appendf(b, " %s=%s", f.name, strings.ReplaceAll(fmt.Sprint(v), " ", ","))
		default:
			b = fmt.Appendf(b, " %s=%v", f.name, v)
		}
	}
	return b
}

// jsonLine is a line for programs. A payload that is not UTF-8 is called payload_base64.
func jsonLine(fs []field) []byte {
	b := []byte{'{'}
	for _, f := range fs {
		name, value := f.name, f.value
		if idle(value) {
			continue
		}
		switch v := value.(type) {
		case payload:
			if value = string(v); !utf8.Valid(v) {
				name, value = name+"_base64", []byte(v)
			}
		case time.Time:
			value = v.UTC()
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			panic(fmt.Sprintf("%s of a record: %v", name, err)) // the types above can all be encoded
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(fmt.Appendf(b, "%q:", name), encoded...)
	}
	return escapeJSON(append(b, '}'))
}
