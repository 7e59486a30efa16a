package main

import (
	"context"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/magpiemq/magpie/api"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
	}{
		{"", nil},
		{"  \t ", nil},
		{"clients", []string{"clients"}},
		{" kick  c1\tforget ", []string{"kick", "c1", "forget"}},
		{`kick "my client"`, []string{"kick", "my client"}},
		{`kick ""`, []string{"kick", ""}},
		{`kick a\x1b\u202e`, []string{"kick", "a\x1b\u202e"}},
		{`kick a"b`, []string{"kick", `a"b`}},
		{`trace topic 温度/+`, []string{"trace", "topic", "温度/+"}},
	} {
		if got, err := split(c.line); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %q, %v, want %q", c.line, got, err, c.want)
		}
	}
	for _, bad := range []string{`kick "a`, `kick a\`, `kick \q`} {
		if got, err := split(bad); err == nil {
			t.Errorf("%q gave %q", bad, got)
		}
	}
}

// What the console shows of a client can be typed in again, and is nothing but printable text in one word.
func FuzzWord(f *testing.F) {
	for _, s := range []string{"", "c1", "my client", hostile, `"`, `\"`, "\u00a0", " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		shown := word(s)
		if strings.ContainsFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) && r != '\ufffd' }) {
			t.Errorf("%q is shown as %q", s, shown)
		}
		if got, err := split("kick " + shown); err != nil || len(got) != 2 || got[1] != s {
			t.Errorf("%q is shown as %s, which is read as %q, %v", s, shown, got, err)
		}
	})
}

func TestEventWords(t *testing.T) {
	for _, c := range []struct {
		event api.Event
		want  string
	}{
		{api.Event{Kind: api.Connected, Client: "c1", Version: "3.1.1", Address: "127.0.0.1:5", User: "u001"}, `c1 connected: MQTT 3.1.1 from 127.0.0.1:5, user u001`},
		{api.Event{Kind: api.Connected, Client: "a b", Version: "5.0", Address: "x"}, `"a b" connected: MQTT 5.0 from x, user -`},
		{api.Event{Kind: api.Disconnected, Client: "c1"}, `c1 disconnected`},
		{api.Event{Kind: api.Disconnected, Client: "c1", Reason: "keep alive timeout (0x8D)"}, `c1 disconnected: keep alive timeout (0x8D)`},
		{api.Event{Kind: api.Refused, Reason: "EOF"}, `a connection was refused: EOF`},
		{api.Event{Kind: api.Refused, Address: "x", Client: "c1", User: "\x1b", Reason: "no\nway"}, `x refused: client c1, user \x1b: no\nway`},
		{api.Event{Kind: api.Published, Client: "c1", Topic: "a", Payload: []byte("93"), Size: 2, QoS: 1, Retain: true}, `c1 published a (QoS 1, retain): 93`},
		{api.Event{Kind: api.Published, Topic: "$SYS/x", Payload: []byte("\x00"), Size: 1}, `(the broker) published $SYS/x (QoS 0): \x00`},
		{api.Event{Kind: api.Delivered, Client: "c1", Topic: "a", Payload: []byte("xy"), Size: 1002}, `c1 received a (QoS 0): xy… (+1000 bytes)`},
		{api.Event{Kind: api.Dropped, Client: "c1", Topic: "a", Reason: "queue full"}, `c1 did not get (queue full) a (QoS 0): `},
		{api.Event{Kind: api.Lost, Count: 3}, `(3 lines not shown: they come too fast)`},
	} {
		if got := eventWords(c.event); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestComplete(t *testing.T) {
	sessions := func(context.Context) []string { return []string{"bin-1", "bin-2", "bin 3", "lamp", "x\x1b[2J"} }
	for _, c := range []struct {
		line string
		want string // the new line; empty if it stays
		told string // what is shown above it
	}{
		{"cl", "clients ", ""},
		{"s", "", "shutdown  stats  subs"},
		{"st", "stats ", ""},
		{"", "", "clients  exit  help  kick  reload  shutdown  stats  subs  top  trace"},
		{"zz", "", ""},
		{"clients ", "clients all ", ""},
		{"kick la", "kick lamp ", ""},
		{"kick b", "kick bin-", ""},
		{"kick bin-", "", "bin-1  bin-2"},
		{"kick lamp", "kick lamp ", ""},
		{`kick "bi`, `kick "bin 3" `, ""},
		{`kick "bin 3`, `kick "bin 3" `, ""},
		{`kick "bin 3" f`, `kick "bin 3" forget `, ""},
		{"kick x", `kick x\x1b[2J `, ""},
		{"kick lamp forget ", "", ""},
		{"trace o", "", "off  on"},
		{"trace t", "trace topic ", ""},
		{"trace topic l", "", ""},
		{"stats ", "", ""},
		{"zz c", "", ""},
		{`kick "a\`, "", ""},
	} {
		var told strings.Builder
		con := &console{out: &told, sessions: sessions}
		got, pos, ok := con.complete(c.line, len(c.line), '\t')
		if got != c.want || pos != len(c.want) || ok != (c.want != "") || strings.TrimSpace(told.String()) != c.told {
			t.Errorf("%q: %q, %d, %v, told %q", c.line, got, pos, ok, told.String())
		}
	}
	con := &console{sessions: sessions}
	if got, _, ok := con.complete("cl", 2, 'x'); ok {
		t.Errorf("a letter gave %q", got)
	}
	if got, _, ok := con.complete("cl", 1, '\t'); ok {
		t.Errorf("the tabulator in the middle gave %q", got)
	}
}

// FuzzCompleteConsole: whatever clients call themselves, the tabulator makes text of a line, with the cursor at its end.
func FuzzCompleteConsole(f *testing.F) {
	f.Add("kick b", "bin 3", "bin-1")
	f.Add(`trace "`, `"`, "")
	f.Fuzz(func(t *testing.T, line, one, other string) {
		con := &console{out: io.Discard, sessions: func(context.Context) []string { return []string{one, other} }}
		got, pos, ok := con.complete(line, len(line), '\t')
		if ok && (pos != len(got) || !utf8.ValidString(got)) {
			t.Errorf("%q, %q, %q: %q at %d", line, one, other, got, pos)
		}
	})
}
