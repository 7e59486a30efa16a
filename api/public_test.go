package api

import (
	"net/http"
	"testing"

	"github.com/magpiemq/magpie/broker"
)

// A page whose name was made to resolve to this machine gets nothing from a listener for the machine itself.
func TestLocalOnly(t *testing.T) {
	p := Public{Broker: newBroker(t, broker.Config{}), Health: &Health{}, MQTT: http.NotFoundHandler()}
	open := p.Handler()
	p.Local = true
	local := p.Handler()
	for _, c := range []struct {
		host string
		ok   bool
	}{
		{"localhost", true},
		{"LocalHost:8080", true},
		{"127.0.0.1", true},
		{"127.0.0.1:8080", true},
		{"[::1]:8080", true},
		{"[::1]", true},
		{"evil.example", false},
		{"evil.example:8080", false},
		{"127.0.0.1.evil.example:8080", false},
		{"localhost.evil.example", false},
		{"localhost:evil.example:1", false},
	} {
		want := http.StatusOK
		if !c.ok {
			want = http.StatusMisdirectedRequest
		}
		if got := get(local, "/healthz", c.host).Code; got != want {
			t.Errorf("host %q: %d, want %d", c.host, got, want)
		}
		if got := get(open, "/healthz", c.host).Code; got != http.StatusOK {
			t.Errorf("host %q on a listener for everybody: %d", c.host, got)
		}
	}
}
