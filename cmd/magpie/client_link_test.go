package main

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

// TestPace: a rate is a limit, and what comes late is made up for only a little.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		p := newPace(10)
		for range 21 {
			time.Sleep(p.wait())
		}
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("21 messages at 10 a second took %v, want 2s", took)
		}
		time.Sleep(time.Hour)
		begin = time.Now()
		for range 11 {
			time.Sleep(p.wait())
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("11 messages after an hour took %v, want 1s", took)
		}
		p = newPace(1000)
		time.Sleep(p.wait())
		time.Sleep(50 * time.Millisecond) // a busy moment
		begin = time.Now()
		for range 100 {
			time.Sleep(p.wait())
		}
		if took := time.Since(begin); took != 50*time.Millisecond {
			t.Errorf("100 messages, 50 ms late, took %v, want 50ms", took)
		}
	})
	if d := newPace(0).wait(); d != 0 {
		t.Errorf("without a rate: wait %v", d)
	}
}

// TestLinkWaitsLonger: the time between attempts doubles up to a limit, a signal ends it, and what is hopeless is given up.
func TestLinkWaitsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []time.Time
		refuse := errors.New("nobody there")
		cfg := client.Config{Version: mqtt.V5}
		cfg.Transport.Dialer = func(context.Context, string, string) (net.Conn, error) {
			attempts = append(attempts, time.Now())
			return nil, refuse
		}
		yes := true
		flags := &connFlags{dialURL: "mqtt://host.invalid", Quiet: true}
		l := newLink(flags, cfg, &reconnectFlag{Reconnect: &yes}, false)
		ctx, cancel := withLimit(t.Context(), 600)
		defer cancel()
		_, err := l.first(ctx)
		if !errors.Is(err, errTimeUp) || !strings.Contains(err.Error(), "no connection to mqtt://host.invalid") {
			t.Errorf("the end was %v", err)
		}
		for i := 1; i < len(attempts); i++ {
			most := min(leastPause<<min(i-1, 10), mostPause)
			if pause := attempts[i].Sub(attempts[i-1]); pause > most || pause <= most/2 {
				t.Errorf("pause %d is %v, want more than %v, at most %v", i, pause, most/2, most)
			}
		}
		if n := len(attempts); n < 600/30 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
	})
}

func TestHopeless(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{io.EOF, false},
		{mqtt.ClientIdentifierNotValid, false}, // not the server's word
		{&client.ServerError{Packet: mqtt.CONNACK, Code: mqtt.ClientIdentifierNotValid}, true},
		{&client.ServerError{Packet: mqtt.CONNACK, Code: mqtt.UnsupportedProtocolVersion}, true},
		{&client.ServerError{Packet: mqtt.CONNACK, Code: mqtt.BadUserNameOrPassword}, false},
		{&client.ServerError{Packet: mqtt.CONNACK, Code: mqtt.ServerUnavailable}, false},
	} {
		if got := hopeless(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

func TestEndWords(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{io.ErrUnexpectedEOF, "the broker closed the connection"},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, "the connection was reset"},
		{mqtt.KeepAliveTimeout, mqtt.KeepAliveTimeout.Error()},
	} {
		if got := plainEnd(c.err); got.Error() != c.want {
			t.Errorf("%v: %v, want %s", c.err, got, c.want)
		}
	}
	if err := plainEnd(nil); err != nil {
		t.Errorf("no end: %v", err)
	}
}
