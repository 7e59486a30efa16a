package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/mqtt"
)

// newServer prepares a server with everything that can be on, on ports of the kernel's choice.
func newServer(t *testing.T, file string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "magpie") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "m.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := &serveCmd{Config: filepath.Join(dir, "m.yaml"), Data: filepath.Join(dir, "data"), MQTT: "127.0.0.1:0", WS: "127.0.0.1:0", HTTP: "127.0.0.1:0"}
	cfg, err := cmd.load()
	if err != nil {
		t.Fatal(err)
	}
	logs, log := newLogging(cfg.Log, io.Discard, 0)
	return &server{cfg: cfg, load: cmd.load, logs: logs, log: log, stopping: make(chan struct{})}
}

// A server that was used and stopped leaves nothing running.
func TestServerEnds(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newServer(t, `auth: {allow_anonymous: true}`)
	var out bytes.Buffer
	if err := s.start(announcer{out: &out}); err != nil {
		t.Fatal(err)
	}
	urls := regexp.MustCompile(`listening on (\S+)`).FindAllStringSubmatch(out.String(), -1)
	if len(urls) != 3 {
		t.Fatalf("it said\n%s", out.String())
	}
	var clients []*client.Conn
	for _, u := range urls {
		c, err := client.DialConn(t.Context(), strings.Replace(u[1], "http://", "ws://", 1), client.Config{})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	if err := s.reload(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.shutdown(ctx); err != nil {
		t.Error(err)
	}
	for _, c := range clients {
		<-c.Done()
	}
}

// A20: reloads, every second one of them with a mistake, disturb nobody: messages flow, clients come and go.
func TestA20ReloadUnderLoad(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newServer(t, `auth: {allow_anonymous: true}`)
	if err := s.start(announcer{out: io.Discard}); err != nil {
		t.Fatal(err)
	}
	url := "mqtt://" + s.listeners[0].Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan struct{}, 1<<16)
	sub := dial(t, ctx, url, client.Config{Handler: func(*client.Delivery) { got <- struct{}{} }})
	if _, err := sub.Subscribe(ctx, mqtt.Subscription{Filter: "a", QoS: mqtt.AtLeastOnce}); err != nil {
		t.Fatal(err)
	}
	pub := dial(t, ctx, url, client.Config{})
	good, bad := s.load, func() (*config.Config, error) { return nil, errors.New("m.yaml:1: wrong") }
	for i := range 100 {
		if s.load = good; i%2 == 1 {
			s.load = bad
		}
		reloaded := make(chan error, 1)
		go func() { reloaded <- s.reload() }()
		if _, err := pub.Publish(ctx, &mqtt.Message{Topic: "a", QoS: mqtt.AtLeastOnce}); err != nil {
			t.Fatal(err)
		}
		if err := dial(t, ctx, url, client.Config{}).Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-reloaded; (err != nil) != (i%2 == 1) {
			t.Fatalf("reload %d: %v", i, err)
		}
		<-got
	}
	for _, c := range []*client.Conn{sub, pub} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, ctx context.Context, url string, cfg client.Config) *client.Conn {
	t.Helper()
	c, err := client.DialConn(ctx, url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A start that fails leaves nothing running either.
func TestStartFails(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newServer(t, ``)
	s.cfg.HTTP.Address = "192.0.2.1:1" // of no machine
	err := s.start(announcer{out: io.Discard})
	var f *failure
	if !errors.As(err, &f) || f.hint == "" {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(filepath.Join(s.cfg.Data, adminSocket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestDataPathTooLong(t *testing.T) {
	s := newServer(t, ``)
	s.cfg.Data = filepath.Join(s.cfg.Data, strings.Repeat("d", 120))
	if err := s.start(announcer{out: io.Discard}); err == nil || !strings.Contains(err.Error(), "path of the data directory is too long") {
		t.Errorf("got %v", err)
	}
}

// Strangers can cause ten lines a second.
func TestLineLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lineLimit{}
		for range 3 {
			passed := 0
			for range 100 {
				if l.allow(time.Now()) {
					passed++
				}
			}
			if passed != 10 {
				t.Errorf("%d lines passed", passed)
			}
			time.Sleep(time.Second) // of the fake clock
		}
	})
}

// Flags change addresses and keep what else is configured.
func TestFlagsOverFile(t *testing.T) {
	cfg := &config.Config{Listeners: []config.Listener{
		{Name: "a", Network: "tcp", Address: "127.0.0.1:1"}, {Name: "b", Network: "tcp", Address: "127.0.0.1:2"},
		{Name: "s", Network: "tls", Address: "127.0.0.1:3", TLS: &config.TLS{Cert: "c", Key: "k"}},
	}}
	cmd := &serveCmd{MQTT: "127.0.0.1:11", MQTTS: "127.0.0.1:13", Cert: "c2", WS: "127.0.0.1:14"}
	if err := cmd.apply(cfg); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range cfg.Listeners {
		got = append(got, l.Name+"="+l.Address)
	}
	want := "a=127.0.0.1:11 b=127.0.0.1:2 s=127.0.0.1:13 ws=127.0.0.1:14"
	if s := strings.Join(got, " "); s != want || cfg.Listeners[2].TLS.Cert != "c2" || cfg.Listeners[2].TLS.Key != "k" {
		t.Errorf("got %s, %+v", s, cfg.Listeners[2].TLS)
	}
	cmd = &serveCmd{MQTT: config.Off}
	if err := cmd.apply(cfg); err != nil || len(cfg.Listeners) != 2 {
		t.Errorf("%v, %d listeners are left", err, len(cfg.Listeners))
	}
}
