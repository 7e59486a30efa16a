package api

import (
	"context"
	"net"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take before the test fails.
const patience = 20 * time.Second

// newBroker returns a broker without listeners, for the time of the test.
func newBroker(t *testing.T, cfg broker.Config) *broker.Broker {
	t.Helper()
	cfg.SysInterval = -1
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// connect returns a client of the broker.
func connect(t *testing.T, b *broker.Broker, id string) *client.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	b.ServeConn(theirs)
	c, err := client.Connect(context.Background(), ours, client.Config{ClientID: id, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func publish(t *testing.T, c *client.Conn, name, payload string, retain bool) {
	t.Helper()
	m := &mqtt.Message{Topic: name, Payload: []byte(payload), QoS: mqtt.AtLeastOnce, Retain: retain}
	if _, err := c.Publish(context.Background(), m); err != nil {
		t.Fatal(err)
	}
}

// adminClient serves the admin interface on a Unix socket and returns a client of it.
func adminClient(t *testing.T, cfg AdminConfig) *AdminClient {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "a")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(Admin(cfg))
	_ = s.Listener.Close()
	s.Listener = ln
	s.Start()
	c := NewAdminClient(socket)
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c
}
