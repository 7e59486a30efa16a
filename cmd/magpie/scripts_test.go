package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// patience is how long anything in a script may take before the test fails.
const patience = 20 * time.Second

// TestScripts runs the scripts, which are the manual of the commands. Those of pub, sub, req and bench have a test of their own.
// Besides the usual commands they have:
//
//	serve ARGS…                 start "magpie serve" with ports of the kernel's choice, wait until it listens; MQTT, MQTTS, WS, HTTP (host:port), PORT and UNIX (path) are set
//	signal NAME                 send HUP to it
//	waitlog REGEXP              wait for a line of its standard error
//	connect ID URL [USER PASSWORD]   connect an MQTT client, which must (with !: must not) be let in; certs ca.crt and client.crt are used if they are there
//	subscribe ID FILTER, publish ID TOPIC PAYLOAD, disconnect ID
//	gone ID REGEXP              wait for the end of its connection, with that reason
//	get URL [HOST]              HTTP GET; the status and the body are stdout
//	terminate                   end the broker, and demand that it ends well (stop is testscript's own, and ends the script)
//	damage FILE TEXT            change a bit of TEXT where it stands in FILE
//	mosquittodb FILE            write what a Mosquitto has saved: queues for lamp of ann, a message that switch of bob has to release, one retained
//	tree DIR                    list everything in it with its size and checksum, as stdout; but for the lock of a journal
//	copytree FROM TO            copy a folder
//	shorten FILE BYTES          cut FILE to so many bytes
//	format FILE N               change the format version in the header of a segment
//	certs                       make ca.crt, server.crt, server.key, client.crt, client.key, expired.crt, noname.crt, other.crt
func TestScripts(t *testing.T) {
	all, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(all) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	ours := slices.DeleteFunc(all, func(f string) bool {
		return regexp.MustCompile(`/(pub|sub|req|bench)[^/]*$`).MatchString(f)
	})
	testscript.Run(t, testscript.Params{
		Files: ours, RequireExplicitExec: true, Setup: newBench,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": cmdServe, "signal": cmdSignal, "waitlog": cmdWaitlog, "connect": cmdConnect,
			"subscribe": cmdSubscribe, "publish": cmdPublish, "disconnect": cmdDisconnect, "gone": cmdGone, "get": cmdGet, "certs": cmdCerts,
			"damage": cmdDamage, "terminate": cmdStop, "mosquittodb": cmdMosquittoDB,
			"tree": cmdTree, "shorten": cmdShorten, "copytree": cmdCopyTree, "format": cmdFormat,
		},
	})
}

// bench is what one script has running.
type bench struct {
	broker  *process
	clients map[string]*client.Conn
}

type benchKey struct{}

func newBench(e *testscript.Env) error {
	b := &bench{clients: make(map[string]*client.Conn)}
	e.Values[benchKey{}] = b
	e.Defer(func() {
		for _, c := range b.clients {
			_ = c.Close()
		}
		if b.broker != nil {
			_ = b.broker.cmd.Process.Kill() // a script that failed before its stop
			_ = b.broker.cmd.Wait()
		}
	})
	return nil
}

func benchOf(ts *testscript.TestScript) *bench { return ts.Value(benchKey{}).(*bench) }

// process is a running "magpie serve".
type process struct {
	cmd      *exec.Cmd
	out, err *watched
}

// watched collects lines and lets others wait for one.
type watched struct {
	mu    sync.Mutex // guards all below
	lines []string
	more  chan struct{} // closed when there is another line or the end
	ended bool
}

func watch(r io.Reader) *watched {
	w := &watched{more: make(chan struct{})}
	go func() {
		for s := bufio.NewScanner(r); s.Scan(); {
			w.add(s.Text(), false)
		}
		w.add("", true)
	}()
	return w
}

func (w *watched) add(line string, end bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended = end; !end {
		w.lines = append(w.lines, line)
	}
	close(w.more)
	w.more = make(chan struct{})
}

// text returns all lines so far.
func (w *watched) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "\n") + "\n"
}

// wait returns when there is a line that matches, which may have come before.
func (w *watched) wait(re *regexp.Regexp) error {
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		found, ended, more := slices.ContainsFunc(w.lines, re.MatchString), w.ended, w.more
		w.mu.Unlock()
		switch {
		case found:
			return nil
		case ended:
			return fmt.Errorf("it ended without a line like %q", re)
		}
		select {
		case <-more:
		case <-deadline:
			return fmt.Errorf("no line like %q in %v", re, patience)
		}
	}
}

// end waits for the end of the stream.
func (w *watched) end() {
	for {
		w.mu.Lock()
		ended, more := w.ended, w.more
		w.mu.Unlock()
		if ended {
			return
		}
		<-more
	}
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	b := benchOf(ts)
	if neg || b.broker != nil {
		ts.Fatalf("usage: serve ARGS…, once until stop")
	}
	p := &process{cmd: exec.Command("magpie", append([]string{"serve"}, withPorts(args)...)...)}
	p.cmd.Dir = ts.MkAbs(".")
	stdout, err := p.cmd.StdoutPipe()
	ts.Check(err)
	stderr, err := p.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	b.broker, p.out, p.err = p, watch(stdout), watch(stderr)
	if err := p.out.wait(regexp.MustCompile(`^look into it: `)); err != nil {
		ts.Fatalf("serve: %v\n%s%s", err, p.out.text(), p.err.text())
	}
	for _, m := range regexp.MustCompile(`listening on (\w+)://(\S+)`).FindAllStringSubmatch(p.out.text(), -1) {
		address, _, _ := strings.Cut(m[2], "/mqtt")
		ts.Setenv(strings.ToUpper(m[1]), address)
		if m[1] == "mqtt" {
			ts.Setenv("PORT", address[strings.LastIndex(address, ":")+1:])
		}
	}
}

// withPorts adds addresses of the kernel's choice where no other is given.
func withPorts(args []string) []string {
	all := strings.Join(args, " ")
	for _, flag := range []string{"--mqtt", "--http"} {
		if !regexp.MustCompile(flag + `\b`).MatchString(all) {
			args = append(args, flag+"=127.0.0.1:0")
		}
	}
	return args
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || args[0] != "HUP" {
		ts.Fatalf("usage: signal HUP")
	}
	ts.Check(benchOf(ts).broker.cmd.Process.Signal(syscall.SIGHUP))
}

func cmdWaitlog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitlog REGEXP")
	}
	p := benchOf(ts).broker
	if err := p.err.wait(regexp.MustCompile(args[0])); err != nil {
		ts.Fatalf("%v; it said:\n%s", err, p.err.text())
	}
}

func cmdStop(ts *testscript.TestScript, neg bool, _ []string) {
	b := benchOf(ts)
	p := b.broker
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended, which shows below
	p.out.end()
	p.err.end()
	b.broker = nil
	err := p.cmd.Wait()
	ts.Check(os.WriteFile(ts.MkAbs("serve.out"), []byte(p.out.text()), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("serve.err"), []byte(p.err.text()), 0o600))
	if neg || err != nil {
		ts.Fatalf("the broker ended with %v:\n%s", err, p.err.text())
	}
}

func cmdConnect(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 && len(args) != 4 {
		ts.Fatalf("usage: connect ID URL [USER PASSWORD]")
	}
	cfg := client.Config{ClientID: unescape(ts, args[0]), Timeout: patience, Transport: transport.DialConfig{TLS: tlsOf(ts)}}
	if len(args) == 4 {
		cfg.Username, cfg.Password = args[2], []byte(args[3])
	}
	c, err := client.DialConn(context.Background(), args[1], cfg)
	if err == nil {
		benchOf(ts).clients[args[0]] = c
	}
	switch {
	case neg && err == nil:
		ts.Fatalf("%s was let in", args[0])
	case neg:
		fmt.Fprintln(ts.Stdout(), err)
	default:
		ts.Check(err)
	}
}

// unescape lets scripts write control characters as the console does.
func unescape(ts *testscript.TestScript, s string) string {
	words, err := split(`"` + s + `"`)
	ts.Check(err)
	return words[0]
}

// tlsOf trusts ca.crt and shows client.crt, if they are there.
func tlsOf(ts *testscript.TestScript) *tls.Config {
	ca, err := os.ReadFile(ts.MkAbs("ca.crt"))
	if err != nil {
		return nil
	}
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AppendCertsFromPEM(ca)
	if pair, err := tls.LoadX509KeyPair(ts.MkAbs("client.crt"), ts.MkAbs("client.key")); err == nil {
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

func (b *bench) client(ts *testscript.TestScript, id string) *client.Conn {
	c := b.clients[id]
	if c == nil {
		ts.Fatalf("no client %s", id)
	}
	return c
}

func cmdSubscribe(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: subscribe ID FILTER")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := benchOf(ts).client(ts, args[0]).Subscribe(ctx, mqtt.Subscription{Filter: args[1], QoS: mqtt.AtLeastOnce})
	expect(ts, neg, err)
}

func cmdPublish(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: publish ID TOPIC PAYLOAD")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m := &mqtt.Message{Topic: args[1], Payload: []byte(unescape(ts, args[2])), QoS: mqtt.AtLeastOnce}
	_, err := benchOf(ts).client(ts, args[0]).Publish(ctx, m)
	expect(ts, neg, err)
}

func expect(ts *testscript.TestScript, neg bool, err error) {
	if neg && err == nil {
		ts.Fatalf("it was allowed")
	}
	if !neg {
		ts.Check(err)
	}
}

func cmdDisconnect(ts *testscript.TestScript, _ bool, args []string) {
	b := benchOf(ts)
	ts.Check(b.client(ts, args[0]).Close())
	delete(b.clients, args[0])
}

func cmdGone(ts *testscript.TestScript, _ bool, args []string) {
	b := benchOf(ts)
	c := b.client(ts, args[0])
	select {
	case <-c.Done():
	case <-time.After(patience):
		ts.Fatalf("%s is still connected", args[0])
	}
	if err := c.Err(); !regexp.MustCompile(args[1]).MatchString(err.Error()) {
		ts.Fatalf("%s ended with %q", args[0], err)
	}
	delete(b.clients, args[0])
}

func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: get URL [HOST]")
	}
	req, err := http.NewRequest(http.MethodGet, args[0], nil)
	ts.Check(err)
	if len(args) == 2 {
		req.Host = args[1]
	}
	c := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: tlsOf(ts), DisableKeepAlives: true}}
	resp, err := c.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d\n%s", resp.StatusCode, body)
}
