package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

func TestMetrics(t *testing.T) {
	b := newBroker(t, broker.Config{Durability: "interval=1s"})
	c := connect(t, b, "c1")
	if _, err := c.Subscribe(t.Context(), mqtt.Subscription{Filter: "a", QoS: mqtt.AtMostOnce}); err != nil {
		t.Fatal(err)
	}
	publish(t, c, "a", "payload", true)
	w := get(Metrics(b, "v1"), "/metrics", "")
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	body := w.Body.String()
	for _, line := range []string{
		`magpie_info{durability="interval=1s",version="v1"} 1`,
		`magpie_connections 1`,
		`magpie_clients_connected 1`,
		`magpie_clients_connected_max 1`,
		`magpie_sessions 1`,
		`magpie_subscriptions 1`,
		`magpie_retained_messages 1`,
		`magpie_queued_messages 0`,
		`magpie_queued_bytes 0`,
		`magpie_messages_received_total{qos="0"} 0`,
		`magpie_messages_received_total{qos="1"} 1`,
		`magpie_payload_received_bytes_total 7`,
		`magpie_packets_received_total{type="CONNECT"} 1`,
		`magpie_messages_refused_total 0`,
		`magpie_memory_limit_bytes 0`,
		`magpie_memory_level 0`,
		`magpie_memory_disconnects_total 0`,
	} {
		if !strings.Contains(body, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	for _, r := range broker.DropReasons() {
		if line := "\nmagpie_messages_dropped_total{reason=\"" + r.String() + "\"} 0\n"; !strings.Contains(body, line) {
			t.Errorf("no line %s", line)
		}
	}
	for _, name := range []string{"magpie_turn_seconds_bucket{le=\"1.6e-05\"}", "magpie_turn_seconds_count", "magpie_login_seconds_count", "magpie_memory_used_bytes", "go_goroutines", "process_open_fds"} {
		if !strings.Contains(body, "\n"+name+" ") {
			t.Errorf("no %s", name)
		}
	}
}

// The names keep to the conventions of Prometheus.
func TestMetricNames(t *testing.T) {
	b := newBroker(t, broker.Config{})
	problems, err := promlint.New(strings.NewReader(get(Metrics(b, "v1"), "/metrics", "").Body.String())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "magpie_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
