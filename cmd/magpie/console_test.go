package main

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/term"

	"github.com/magpiemq/magpie/api"
	"github.com/magpiemq/magpie/client"
)

// keyboard is the other end of a terminal: what is typed and what is seen.
type keyboard struct {
	io.Writer
	seen *watched
}

// newTerminal returns a prompt on a terminal that is a pipe, with somebody at its other end until hangUp.
func newTerminal() (p *prompt, user keyboard, hangUp func() error) {
	ours, theirs := net.Pipe()
	tt := term.NewTerminal(theirs, "> ")
	return &prompt{terminal: tt, out: tt}, keyboard{ours, watch(ours)}, ours.Close
}

// The console on a terminal: events appear while somebody types, history works, exit leaves.
func TestConsoleOnTerminal(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newServer(t, `auth: {allow_anonymous: true}`)
	if err := s.start(announcer{out: io.Discard}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	admin := api.NewAdminClient(filepath.Join(s.cfg.Data, adminSocket))
	defer admin.Close()
	p, user, hangUp := newTerminal()
	defer func() { _ = hangUp() }()
	con := newConsole(admin, true)
	con.out = p
	p.completeWith(con)
	left := make(chan error, 1)
	go func() { left <- con.run(t.Context(), p) }()
	user.types(t, "trace on\r", "trace is on")
	c, err := client.DialConn(t.Context(), "mqtt://"+s.listeners[0].Addr().String(), client.Config{ClientID: "x\x1b[2J"})
	if err != nil {
		t.Fatal(err)
	}
	user.sees(t, `x\\x1b\[2J connected: MQTT 5\.0 from 127\.0\.0\.1:\d+, user -`)
	user.types(t, "subs \t\r", "0 subscriptions") // the tabulator knows who is connected
	user.types(t, "clients\r", "1 client connected")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	user.sees(t, `x\\x1b\[2J disconnected`)
	user.types(t, "\x1b[A\r", "0 clients connected") // the arrow brings the last line back
	user.types(t, "exit\r", "exit")
	if err := <-left; !errors.Is(err, errLeave) {
		t.Errorf("exit gave %v", err)
	}
}

func (k keyboard) types(t *testing.T, keys, answer string) {
	t.Helper()
	if _, err := io.WriteString(k, keys); err != nil {
		t.Fatal(err)
	}
	k.sees(t, answer)
}

func (k keyboard) sees(t *testing.T, pattern string) {
	t.Helper()
	if err := k.seen.wait(regexp.MustCompile(pattern)); err != nil {
		t.Fatalf("%v; seen: %q", err, k.seen.text())
	}
}

// The prompt of a broker that goes away ends, with an error for whoever is only attached.
func TestConsoleOutlivesNoBroker(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newServer(t, ``)
	if err := s.start(announcer{out: io.Discard}); err != nil {
		t.Fatal(err)
	}
	admin := api.NewAdminClient(filepath.Join(s.cfg.Data, adminSocket))
	defer admin.Close()
	reader, writer := io.Pipe()
	defer writer.Close()
	p := &prompt{lines: newLineReader(reader), out: io.Discard}
	con := newConsole(admin, false)
	con.out = p
	left := make(chan error, 1)
	go func() { left <- con.run(t.Context(), p) }()
	if _, err := io.WriteString(writer, "stats\n"); err != nil { // taken when the prompt is there
		t.Fatal(err)
	}
	if err := s.shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-left; err == nil || !strings.Contains(err.Error(), "the broker has ended") {
		t.Errorf("got %v", err)
	}
}

func TestAskTwice(t *testing.T) {
	for _, c := range []struct {
		answers []string
		want    string
	}{
		{[]string{"a", "a"}, "a"},
		{[]string{"a", "b", "c", "c"}, "c"},
		{[]string{"", "", "a", "b", "c", "d"}, ""},
		{[]string{"a"}, ""},
	} {
		answers := c.answers
		got, err := askTwice(func(string) (string, error) {
			if len(answers) == 0 {
				return "", io.EOF
			}
			a := answers[0]
			answers = answers[1:]
			return a, nil
		})
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v", c.answers, got, err)
		}
	}
}
