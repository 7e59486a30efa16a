package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// cmdDamage changes one bit of a file, at the first place where a text stands in it.
func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: damage FILE TEXT")
	}
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	at := bytes.Index(b, []byte(args[1]))
	if at < 0 {
		ts.Fatalf("%q is not in %s", args[1], args[0])
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt([]byte{b[at] ^ 1}, int64(at))
	ts.Check(errors.Join(err, f.Close()))
}

// hostileWords is what a stranger may write to make a line look like another one.
const hostileWords = "a\nb \x1b[2J\u202e\"c\\"

// TestDumpLine shows the line of each kind of record, for people and for programs.
func TestDumpLine(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	message := &mqtt.Message{Topic: "bins/7", Payload: []byte("93"), QoS: 1, Retain: true, Publisher: "b7", Expires: noon}
	for _, c := range []struct {
		r          store.Record
		text, json string
	}{
		{store.Record{Kind: store.Session, Session: 2, ClientID: hostileWords, Version: mqtt.V5, Time: noon, Expiry: -1},
			`session session=2 client="a\nb \x1b[2J\u202e\"c\\" version=5.0 time=2026-01-02T12:00:00.000Z expiry=never`,
			`"kind":"session","session":2,"client":"a\nb \u001b[2J\u202e\"c\\","version":"5.0","time":"2026-01-02T12:00:00Z","expiry":null`},
		{store.Record{Kind: store.Session, Session: 1, ClientID: "c1", Owner: "ann", Version: mqtt.V311, Time: noon, Will: &store.Will{Message: message, Delay: time.Second}},
			`session session=1 client=c1 owner=ann version=3.1.1 time=2026-01-02T12:00:00.000Z expiry=0s will_topic=bins/7 will_qos=1 will_retain ` +
				`will_expires=2026-01-02T12:00:00.000Z will_publisher=b7 will_payload="93" will_delay=1s will_expiry=0s`,
			`"kind":"session","session":1,"client":"c1","owner":"ann","version":"3.1.1","time":"2026-01-02T12:00:00Z","expiry":0,"will_topic":"bins/7",` +
				`"will_qos":1,"will_retain":true,"will_expires":"2026-01-02T12:00:00Z","will_publisher":"b7","will_payload":"93","will_delay":1,"will_expiry":0`},
		{store.Record{Kind: store.Left, Session: 1, Time: noon, Expiry: time.Hour},
			`left session=1 client=c1 time=2026-01-02T12:00:00.000Z expiry=1h0m0s`,
			`"kind":"left","session":1,"client":"c1","time":"2026-01-02T12:00:00Z","expiry":3600`},
		{store.Record{Kind: store.Ended, Session: 9}, `ended session=9`, `"kind":"ended","session":9`},
		{store.Record{Kind: store.Subscribed, Session: 1, Subscription: mqtt.Subscription{Filter: "a/#", QoS: 2, NoLocal: true}, IDs: []uint32{3, 4}},
			`subscribed session=1 client=c1 filter=a/# qos=2 no_local retain_handling=0 ids=[3,4]`,
			`"kind":"subscribed","session":1,"client":"c1","filter":"a/#","qos":2,"no_local":true,"retain_handling":0,"ids":[3,4]`},
		{store.Record{Kind: store.Unsubscribed, Session: 1, Subscription: mqtt.Subscription{Filter: "a b"}},
			`unsubscribed session=1 client=c1 filter="a b"`, `"kind":"unsubscribed","session":1,"client":"c1","filter":"a b"`},
		{store.Record{Kind: store.Accepted, Session: 1, PacketID: 7, Message: message, Recipients: []store.Recipient{{Session: 2, QoS: 1, Share: "g"}, {Session: 3}}},
			`accepted session=1 client=c1 packet_id=7 topic=bins/7 qos=1 retain expires=2026-01-02T12:00:00.000Z publisher=b7 payload="93" recipients=2`,
			`"kind":"accepted","session":1,"client":"c1","packet_id":7,"topic":"bins/7","qos":1,"retain":true,"expires":"2026-01-02T12:00:00Z","publisher":"b7",` +
				`"payload":"93","recipients":[{"session":2,"qos":1,"share":"g"},{"session":3,"qos":0}]`},
		{store.Record{Kind: store.Moved, About: 1<<32 | 5000, Message: &mqtt.Message{Topic: hostileWords, Payload: []byte("\xff\n\"")}},
			`moved about=00000001:5000 topic="a\nb \x1b[2J\u202e\"c\\" qos=0 payload="\xff\n\"" recipients=0`,
			`"kind":"moved","about":"00000001:5000","topic":"a\nb \u001b[2J\u202e\"c\\","qos":0,"payload_base64":"/woi","recipients":[]`},
		{store.Record{Kind: store.Done, Session: 1, About: 1<<32 | 5000},
			`done session=1 client=c1 about=00000001:5000`, `"kind":"done","session":1,"client":"c1","about":"00000001:5000"`},
		{store.Record{Kind: store.Sent, Session: 1, About: 26<<32 | 5000, PacketID: 3},
			`sent session=1 client=c1 about=0000001a:5000 packet_id=3`, `"kind":"sent","session":1,"client":"c1","about":"0000001a:5000","packet_id":3`},
		{store.Record{Kind: store.WillGone, Session: 1}, `will-gone session=1 client=c1`, `"kind":"will-gone","session":1,"client":"c1"`},
		{store.Record{Kind: store.Queue, Session: 1, Refs: []store.Ref{{About: 1<<32 | 5000, QoS: 2, PacketID: 4, Received: true}}},
			`queue session=1 client=c1 messages=1`,
			`"kind":"queue","session":1,"client":"c1","messages":[{"about":"00000001:5000","qos":2,"packet_id":4,"received":true}]`},
		{store.Record{Kind: store.Inbound, Session: 1, PacketIDs: []uint16{5, 6}},
			`inbound session=1 client=c1 packet_ids=[5,6]`, `"kind":"inbound","session":1,"client":"c1","packet_ids":[5,6]`},
	} {
		entry := journal.Entry{Position: 2<<32 | 4118, Kind: byte(c.r.Kind), Payload: c.r.Append(nil)}
		if got := dumped(t, &storeDumpCmd{}, entry); got != "00000002:4118 "+c.text+"\n" {
			t.Errorf("text:\n got %swant 00000002:4118 %s", got, c.text)
		}
		got := dumped(t, &storeDumpCmd{JSON: true}, entry)
		if want := `{"position":"00000002:4118",` + c.json + "}\n"; got != want || !json.Valid([]byte(got)) {
			t.Errorf("JSON:\n got %swant %s", got, want)
		}
	}
}

// dumped returns what is printed about a record when session 1 is known to be that of c1.
func dumped(t *testing.T, cmd *storeDumpCmd, e journal.Entry) string {
	t.Helper()
	var b bytes.Buffer
	d := newDumper(cmd, &b)
	d.clients[1] = "c1"
	if err := errors.Join(d.record(e), d.out.Flush()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Every kind of record has a name, and an unknown one is shown and counted.
func TestDumpKinds(t *testing.T) {
	for k := store.Session; k <= store.Retained; k++ {
		if name := kindName(k); strings.HasPrefix(name, "kind-") {
			t.Errorf("kind %d has no name", k)
		}
	}
	var b bytes.Buffer
	d := newDumper(&storeDumpCmd{}, &b)
	for _, e := range []journal.Entry{{Position: 1<<32 | 1, Kind: 77, Payload: []byte("xy")}, {Position: 1<<32 | 2, Kind: byte(store.Accepted)}} {
		if err := d.record(e); err != nil {
			t.Fatal(err)
		}
	}
	d.out.Flush()
	want := "00000001:1 kind-77 error=\"record of kind 77: record is damaged\" bytes=2\n" +
		"00000001:2 accepted error=\"record of kind 6: record is damaged\" bytes=0\n"
	if b.String() != want {
		t.Errorf("got %swant %s", b.String(), want)
	}
	err := d.judge("data", "data/journal", &journal.Report{})
	if err == nil || !strings.HasPrefix(err.Error(), "data/journal has 2 records that cannot be understood, the first: record at 00000001:1: ") {
		t.Errorf("got %v", err)
	}
}

func TestDumpWants(t *testing.T) {
	for _, c := range []struct {
		kinds []string
		want  []string
	}{
		{nil, []string{"session", "lost"}},
		{[]string{"session"}, []string{"session"}},
		{[]string{"mark", "lost"}, []string{"mark", "lost"}},
		{[]string{"all"}, []string{"session", "mark", "lost"}},
	} {
		var got []string
		for _, kind := range []string{"session", "mark", "lost"} {
			if (&storeDumpCmd{Kind: c.kinds}).wants(kind) {
				got = append(got, kind)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("--kind %v: got %v, want %v", c.kinds, got, c.want)
		}
	}
}

func TestPlace(t *testing.T) {
	for _, c := range []struct {
		in   string
		want place
	}{
		{"00000001:4118", 1<<32 | 4118},
		{"0000001a.seg:5", 26<<32 | 5},
		{"1a:5", 26<<32 | 5},
		{"1a00000005", 26<<32 | 5}, // as in errors of the broker
	} {
		var p place
		if err := p.UnmarshalText([]byte(c.in)); err != nil || p != c.want {
			t.Errorf("%s: got %v, %v, want %v", c.in, p, err, c.want)
		}
		if err := p.UnmarshalText([]byte(p.String())); err != nil || p != c.want {
			t.Errorf("%s: read again: %v, %v", c.in, p, err)
		}
	}
	for _, in := range []string{"", ":", "1:", ":1", "1:-1", "1:4294967296", "100000000:1", "x", "1:2:3", "10000000000000000"} {
		if err := new(place).UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

// TestSummary shows in what words a check tells where a journal ends.
func TestSummary(t *testing.T) {
	whole := journal.Report{Records: 2, Bytes: 2000, Segments: []journal.SegmentReport{{Number: 1, File: "d/00000001.seg", Bytes: 2000}}}
	torn := whole
	torn.Torn = 3
	damaged := whole
	damaged.Gaps = []journal.Gap{{File: "d/00000001.seg", From: 5000, To: 5060}}
	damaged.Missing = []uint32{26}
	head := "d: 2 records, 2.0 KiB in 1 segment\n"
	for _, c := range []struct {
		name string
		k    checker
		r    journal.Report
		want string
	}{
		{"stopped", checker{closed: true}, whole, head + "it ends in 00000001.seg at byte 6096, where the broker was stopped"},
		{"killed", checker{}, whole, head + "it ends in 00000001.seg at byte 6096, where the broker was cut off; nothing was being written"},
		{"torn", checker{}, torn, head + "it ends in 00000001.seg at byte 6096, where the broker was cut off; " +
			"what was being written behind it was never acknowledged, and the next start clears it away"},
		{"stopped, in a file that was used before", checker{closed: true}, torn, head + "it ends in 00000001.seg at byte 6096, where the broker was stopped"},
		{"salvaged", checker{closed: true, lost: 2}, whole, head + "2 places where an earlier salvage found records lost\n" +
			"it ends in 00000001.seg at byte 6096, where the broker was stopped"},
		{"damaged", checker{}, damaged, head + "lost: 00000001.seg, bytes 5000 to 5060: the records in these 60 bytes cannot be read\n" +
			"lost: 0000001a.seg is not there: all records in it"},
	} {
		c.k.folder = "d"
		if got := strings.Join(append(c.k.summary(&c.r), losses(&c.r)...), "\n"); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	if err := new(parser).judge("data", "d", &damaged); err == nil || err.Error() != "d is damaged: 1 gap and 1 missing segment" {
		t.Errorf("got %v", err)
	}
}

func TestProgress(t *testing.T) {
	var b bytes.Buffer
	p := &progress{out: &b, what: "check", percent: -1}
	p.show(1, 0) // nothing to do tells nothing
	p.show(0, 2048)
	p.show(1, 2048) // no whole percent more
	p.show(1024, 2048)
	p.show(9999, 2048) // a file that has grown meanwhile
	p.end()
	p.end()
	want := "\rcheck [" + strings.Repeat(" ", 40) + "]   0 % of 2.0 KiB" +
		"\rcheck [" + strings.Repeat("#", 20) + strings.Repeat(" ", 20) + "]  50 % of 2.0 KiB" +
		"\rcheck [" + strings.Repeat("#", 40) + "] 100 % of 2.0 KiB" +
		"\r" + strings.Repeat(" ", len("check []")+40+len(" 100 % of 2.0 KiB")) + "\r"
	if b.String() != want {
		t.Errorf("got %q\nwant %q", b.String(), want)
	}
}

// Where there is no terminal, nothing is shown.
func TestProgressSilent(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	p := newProgress("check", f)
	p.show(1, 2)
	p.end()
	size, err := f.Seek(0, 2)
	if err := errors.Join(err, f.Close()); err != nil || size != 0 {
		t.Errorf("%d bytes were written, %v", size, err)
	}
}

func TestSizeWord(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1: "1 byte", 1023: "1023 bytes", 1024: "1.0 KiB", 1536: "1.5 KiB", 64 << 20: "64.0 MiB", 5 << 30: "5.0 GiB", 3000 << 40: "3000.0 TiB"} {
		if got := sizeWord(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestWithin(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "journal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("journal", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"journal": true, "journal/x/y": true, "link/x": true, "x": false, "journal2": false, "journal/../x": false, ".": false} {
		if got := within(filepath.Join(dir, "journal"), filepath.Join(dir, path)); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}
