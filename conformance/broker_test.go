package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// form is a way to reach a broker.
type form struct {
	name      string
	transport string
	io        broker.IO // how the broker serves plain sockets
}

// forms lists what to try. An external broker may lack WebSocket, and serves
// its sockets as it likes.
func forms() []form {
	all := []form{{"tcp", "tcp", broker.IOAuto}, {"ws", "ws", broker.IOAuto}, {"goroutine", "tcp", broker.IOGoroutine}}
	if target, ok := external(); ok && target.WS == "" {
		return all[:1]
	} else if ok {
		return all[:2]
	}
	return all
}

// start returns the broker to try, and whether it can be had with these
// settings. Unless it is an external one, it is stopped when t ends.
func start(t *testing.T, with map[string]string, io broker.IO) (Target, bool) {
	t.Helper()
	if target, ok := external(); ok {
		return target, len(with) == 0
	}
	cfg, err := configure(with)
	if err != nil {
		t.Fatal(err)
	}
	cfg.IO = io
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tcp, ws := listen(t, transport.TCP), listen(t, transport.WS)
	served := make(chan error, 1)
	go func() { served <- b.Serve(context.Background(), tcp, ws) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return Target{TCP: tcp.Addr().String(), WS: "ws://" + ws.Addr().String() + "/mqtt"}, true
}

func listen(t *testing.T, network string) net.Listener {
	t.Helper()
	ln, err := transport.Listen(transport.Config{Network: network, Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// configure turns the settings of scripts into a configuration.
func configure(with map[string]string) (broker.Config, error) {
	var cfg broker.Config
	for name, value := range with {
		set, ok := settings[name]
		if !ok {
			return cfg, fmt.Errorf("no setting %s", name)
		}
		if err := set(&cfg, value); err != nil {
			return cfg, fmt.Errorf("setting %s=%s: %w", name, value, err)
		}
	}
	return cfg, nil
}

// settings are the words that may follow with in a script.
var settings = map[string]func(*broker.Config, string) error{
	"receive-max":        number16(func(c *broker.Config, n int) { c.Limits.ReceiveMaximum = n }),
	"max-inflight":       number16(func(c *broker.Config, n int) { c.Limits.MaxInflight = n }),
	"client-id-max":      number16(func(c *broker.Config, n int) { c.Limits.ClientIDBytes = n }),
	"keepalive-max":      number16(func(c *broker.Config, n int) { c.Limits.MaxKeepAlive = time.Duration(n) * time.Second }),
	"session-expiry-max": number16(func(c *broker.Config, n int) { c.Limits.SessionExpiry = time.Duration(n) * time.Second }),
	"check-format":       number16(func(c *broker.Config, n int) { c.CheckPayloadFormat = n == 1 }),
	"strict-ids":         number16(func(c *broker.Config, n int) { c.StrictClientIDs = n == 1 }),
	"response-prefix":    func(c *broker.Config, value string) error { c.ResponsePrefix = value; return nil },
	"auth":               authentication,
}

func number16(set func(*broker.Config, int)) func(*broker.Config, string) error {
	return func(c *broker.Config, value string) error {
		n, err := strconv.ParseUint(value, 10, 16)
		set(c, int(n))
		return err
	}
}

func authentication(c *broker.Config, value string) error {
	switch value {
	case "echo":
		c.Enhanced = []broker.EnhancedAuthenticator{echo{}}
	case "password":
		c.Authenticator = password{}
	default:
		return fmt.Errorf("neither echo nor password")
	}
	return nil
}

// password lets u001 in, with the password p001.
type password struct{}

func (password) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if r.Username != "u001" || string(r.Password) != "p001" {
		return broker.Grant{}, mqtt.BadUserNameOrPassword
	}
	return broker.Grant{User: r.Username}, nil
}

// echo is an Authentication Method that sends back what it gets, and wants the
// same once more.
type echo struct{}

func (echo) Method() string { return "echo" }

func (echo) Start(*broker.ConnectRequest) (broker.Exchange, error) { return &echoing{}, nil }

type echoing struct{ first []byte }

func (e *echoing) Next(_ context.Context, data []byte) (reply []byte, done bool, err error) {
	switch {
	case e.first == nil:
		e.first = data
		return data, false, nil
	case bytes.Equal(e.first, data):
		return nil, true, nil
	}
	return nil, false, mqtt.NotAuthorized
}

func (e *echoing) Grant() broker.Grant { return broker.Grant{User: "echo"} }
