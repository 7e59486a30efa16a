package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

// parseClient parses a command line of pub, sub or req.
func parseClient(t *testing.T, args ...string) *cli {
	t.Helper()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return &c
}

// TestExitCodes: 2 is usage, 1 is failure.
func TestExitCodes(t *testing.T) {
	for line, want := range map[string]int{
		"pub -m x":                        2,
		"pub -t t -m x -p 70000":          2,
		"pub --nonsense":                  2,
		"sub -t a/#/b":                    2,
		"sub -t a -x never":               2,
		"req -t t -m x -V 311":            2,
		"pub -h 127.0.0.1 -p 1 -t t -m x": 1,
		"sub -h 127.0.0.1 -p 1 -t t":      1,
		"req -h 127.0.0.1 -p 1 -t t -m x": 1,
	} {
		if got := run(strings.Fields(line)); got != want {
			t.Errorf("magpie %s: exit code %d, want %d", line, got, want)
		}
	}
}

func TestClientAddress(t *testing.T) {
	for line, want := range map[string]string{
		"":                              "mqtt://localhost:1883",
		"-h ::1 -p 1":                   "mqtt://[::1]:1",
		"-h [::1]":                      "mqtt://[::1]:1883",
		"--tls":                         "mqtts://localhost:8883",
		"-p 8883":                       "mqtts://localhost:8883",
		"--tls -p 1":                    "mqtts://localhost:1",
		"--unix /run/a%20b":             "unix:///run/a%2520b",
		"-L mqtt://h/a/#":               "mqtt://h",
		"-L mqtts://u:p@h:1/a":          "mqtts://h:1",
		"-L wss://h/some/path":          "wss://h/some/path",
		"-L mqtt://h/a?b":               "mqtt://h",
		"-L mqtt://u%40x:p%2F@h:1/a/+/": "mqtt://h:1",
	} {
		f := parseClient(t, append([]string{"sub", "-t", "t"}, strings.Fields(line)...)...).Sub.connFlags
		if err := f.address(); err != nil || f.dialURL != want {
			t.Errorf("%s: %q, %v; want %q", line, f.dialURL, err, want)
		}
	}
	f := parseClient(t, "pub", "-L", "mqtt://u%40x:p%2F@h:1/a/+/#").Pub.connFlags
	if err := f.address(); err != nil || f.Username != "u@x" || f.Password != "p/" || f.urlTopic != "a/+/#" {
		t.Errorf("user %q, password %q, topic %q, %v", f.Username, f.Password, f.urlTopic, err)
	}
}

// TestURLErrorsHideThePassword: what is wrong with a URL is said without the URL.
func TestURLErrorsHideThePassword(t *testing.T) {
	for _, bad := range []string{"mqtt://u:secret@h:port/t", "mqtt://u:secret@/t", "u:secret@h"} {
		f := parseClient(t, "pub", "-L", bad, "-m", "x").Pub.connFlags
		if err := f.address(); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v", bad, err)
		}
	}
}

func TestClientConfig(t *testing.T) {
	t.Setenv("MAGPIE_PASSWORD", "")
	f := parseClient(t, strings.Fields("sub -t t -i c1 -c -k 0 -u u -P p -D connect user-property a b --will-topic w --will-qos 2 -D will will-delay-interval 5")...).Sub.connFlags
	cfg, err := f.config()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.ClientID != "c1" || cfg.Session == nil || cfg.SessionExpiry != client.NeverExpires || cfg.KeepAlive >= 0 || cfg.Username != "u" || string(cfg.Password) != "p" {
		t.Errorf("%+v", cfg)
	}
	if want := mqtt.Properties(nil).WithUser("a", "b"); !bytes.Equal(cfg.Props, want) {
		t.Errorf("CONNECT properties % x", cfg.Props)
	}
	if want := mqtt.Properties(nil).WithInt(mqtt.WillDelayInterval, 5); cfg.Will.QoS != 2 || !bytes.Equal(cfg.Will.Props, want) {
		t.Errorf("will %+v", cfg.Will)
	}
	for expiry, want := range map[string]time.Duration{"-1": client.NeverExpires, "∞": client.NeverExpires, "4294967295": client.NeverExpires, "60": time.Minute, "0": 0} {
		f := parseClient(t, "sub", "-t", "t", "-i", "c1", "-c", "-x", expiry).Sub.connFlags
		if cfg, err := f.config(); err != nil || cfg.SessionExpiry != want {
			t.Errorf("-x %s: %v, %v; want %v", expiry, cfg.SessionExpiry, err, want)
		}
	}
}

func TestPropertyErrors(t *testing.T) {
	for _, line := range []string{
		"-D publish payload-format-indicator 2", "-D publish receive-maximum 1", "-D publish subscription-identifier 1",
		"-D will content-type x", "-D will receive-maximum 1 --will-topic w", "-D connect receive-maximum 65536",
		"-D connect receive-maximum 0", "-D publish content-type a -D publish content-type b", "-D publish content-type \xff",
	} {
		f := parseClient(t, append([]string{"pub", "-t", "t", "-m", "x"}, strings.Split(line, " ")...)...).Pub.connFlags
		if _, err := f.config("publish"); err == nil {
			t.Errorf("%s: no error", line)
		}
	}
}

// delivery is a message as it comes to a handler.
func delivery(topic, payload string, props mqtt.Properties) *client.Delivery {
	return &client.Delivery{Message: &mqtt.Message{Topic: topic, Payload: []byte(payload), Props: props}}
}

// TestTerminalIsNotCommanded: on a terminal nothing from outside is more than text, in no format; elsewhere bytes stay as they are.
func TestTerminalIsNotCommanded(t *testing.T) {
	const evil = "\x1b]0;owned\a\x1b[2J\x9b31m\u009b1m\u202e\r\x00\x7f"
	props := mqtt.Properties(nil).WithString(mqtt.ContentType, evil).WithString(mqtt.ResponseTopic, evil).WithString(mqtt.CorrelationData, evil).WithUser(evil, evil)
	d := delivery("a"+evil+"\nfake", "b"+evil+"\nline", props)
	formatted, err := parseFormat("%t|%p|%C|%R|%D|%P|%20t|%.9t|%j|\\e[1m")
	if err != nil {
		t.Fatal(err)
	}
	for name, print := range map[string]func(*printing){"payload": printPayload, "verbose": printVerbose, "json": printJSON, "format": formatted} {
		var out bytes.Buffer
		if err := (&printer{out: &out, careful: true, print: print}).show(d); err != nil {
			t.Fatal(err)
		}
		shown := strings.TrimSuffix(out.String(), "\x1b[1m") // the user's own
		for _, bad := range []string{"\x1b", "\a", "\x9b3", "\u009b", "\u202e", "\r", "\x00", "\x7f"} {
			if strings.Contains(shown, bad) {
				t.Errorf("%s: %q lets %q through", name, shown, bad)
			}
		}
	}
	var out bytes.Buffer
	_ = (&printer{out: &out, print: printPayload}).show(d)
	if out.String() != "b"+evil+"\nline" {
		t.Errorf("off a terminal the payload is %q", out.String())
	}
}

func TestFormatErrors(t *testing.T) {
	for _, format := range []string{"%", "%5", "%-", "%.", "@", "@K", `\`, `\q`, "%z", "%99999t", "%.99999t", "%99999999999999999999t"} {
		if _, err := parseFormat(format); err == nil {
			t.Errorf("%q: no error", format)
		}
	}
}

// FuzzFormat: no format and no message makes printing panic.
func FuzzFormat(f *testing.F) {
	f.Add("%t %-10.5p %05l %x|@Y-@m\\n%%%j%J%S%E%P", "a/b", "\xff\x1b[2J")
	f.Fuzz(func(t *testing.T, format, topic, payload string) {
		print, err := parseFormat(format)
		if err != nil {
			return
		}
		for _, careful := range []bool{false, true} {
			p := printer{out: io.Discard, careful: careful, print: print}
			if err := p.show(delivery(topic, payload, nil)); err != nil {
				t.Error(err)
			}
		}
	})
}

// pipeClient connects a client to a broker in this process.
func pipeClient(t *testing.T) (*client.Conn, *broker.Broker) {
	t.Helper()
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	b.ServeConn(there)
	c, err := client.Connect(t.Context(), here, client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return c, b
}

// TestLinesEnd: pub -l does not wait for a line that may never come when there is nobody to send it to.
func TestLinesEnd(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for name, tc := range map[string]struct {
		end  func(*broker.Broker, context.CancelFunc)
		want error
	}{
		"broker goes": {func(b *broker.Broker, _ context.CancelFunc) { _ = b.Shutdown(context.Background()) }, mqtt.ServerShuttingDown},
		"signal":      {func(_ *broker.Broker, cancel context.CancelFunc) { cancel() }, nil},
	} {
		c, b := pipeClient(t)
		ctx, cancel := context.WithCancel(t.Context())
		in, out := io.Pipe()
		s := sender{ctx: ctx, out: oneConn{c, &connFlags{}}, message: mqtt.Message{Topic: "t", QoS: mqtt.AtLeastOnce}}
		done := make(chan error, 1)
		go func() { done <- s.send(s.lines(in, math.MaxInt, encodingFlags{}.decode)) }()
		if _, err := out.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
		tc.end(b, cancel)
		if err := <-done; !errors.Is(err, tc.want) && !(name == "signal" && errors.Is(err, context.Canceled)) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		cancel()
		_ = out.Close()
		_ = c.Close()
		<-c.Done()
		_ = b.Shutdown(context.Background())
	}
}
