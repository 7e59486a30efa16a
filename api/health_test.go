package api

import (
	"net/http"
	"testing"

	"github.com/magpiemq/magpie/broker"
)

func TestHealth(t *testing.T) {
	h := &Health{}
	public := Public{Broker: newBroker(t, broker.Config{}), Health: h, MQTT: http.NotFoundHandler()}.Handler()
	expect := func(path string, code int) {
		t.Helper()
		if got := get(public, path, "").Code; got != code {
			t.Errorf("%s: %d, want %d", path, got, code)
		}
	}
	expect("/healthz", http.StatusOK)
	expect("/readyz", http.StatusServiceUnavailable)
	h.SetReady(true)
	expect("/readyz", http.StatusOK)
	h.SetReady(false)
	expect("/healthz", http.StatusOK)
	expect("/readyz", http.StatusServiceUnavailable)
	expect("/", http.StatusNotFound)
}
