package api

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/magpiemq/magpie/broker"
)

// Metrics returns the handler of /metrics: the broker's numbers, those of the process and of the Go runtime, in the format of
// Prometheus.
func Metrics(b *broker.Broker, version string) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(NewCollector(b, version),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// metric is one number of the broker, or several that differ by one label.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(st *broker.Stats, emit func(v float64, labels ...string))
}

func one(kind prometheus.ValueType, name, help string, value func(*broker.Stats) float64) metric {
	return metric{prometheus.NewDesc("magpie_"+name, help, nil, nil), kind, func(st *broker.Stats, emit func(float64, ...string)) {
		emit(value(st))
	}}
}

func gauge[N int | int64](name, help string, value func(*broker.Stats) N) metric {
	return one(prometheus.GaugeValue, name, help, func(st *broker.Stats) float64 { return float64(value(st)) })
}

func counter(name, help string, value func(*broker.Stats) int64) metric {
	return one(prometheus.CounterValue, name, help, func(st *broker.Stats) float64 { return float64(value(st)) })
}

func counters(name, help, label string, values func(st *broker.Stats, emit func(v float64, labels ...string))) metric {
	return metric{prometheus.NewDesc("magpie_"+name, help, []string{label}, nil), prometheus.CounterValue, values}
}

// byQoS emits a number for each quality of service.
func byQoS(numbers func(*broker.Stats) [3]int64) func(*broker.Stats, func(float64, ...string)) {
	return func(st *broker.Stats, emit func(float64, ...string)) {
		for qos, n := range numbers(st) {
			emit(float64(n), strconv.Itoa(qos))
		}
	}
}

var metrics = []metric{
	gauge("connections", "Network connections, accepted by MQTT or not yet.", func(s *broker.Stats) int { return s.Connections }),
	gauge("clients_connected", "Clients that are connected.", func(s *broker.Stats) int { return s.Connected }),
	gauge("clients_connected_max", "Most clients connected at a time since the start.", func(s *broker.Stats) int { return s.MaxConnected }),
	gauge("sessions", "Sessions, connected or not.", func(s *broker.Stats) int { return s.Sessions }),
	counter("sessions_expired_total", "Sessions that ended by their expiry.", func(s *broker.Stats) int64 { return s.ExpiredSessions }),
	gauge("subscriptions", "Subscriptions, shared ones included.", func(s *broker.Stats) int { return s.Subscriptions }),
	gauge("shared_groups", "Groups of shared subscriptions.", func(s *broker.Stats) int { return s.SharedGroups }),
	gauge("retained_messages", "Retained messages.", func(s *broker.Stats) int { return s.Retained }),
	gauge("retained_bytes", "Bytes of the retained messages.", func(s *broker.Stats) int { return s.RetainedBytes }),
	gauge("queued_messages", "Messages that wait in sessions.", func(s *broker.Stats) int64 { return s.QueuedMessages }),
	gauge("queued_bytes", "Bytes that wait in sessions.", func(s *broker.Stats) int64 { return s.QueuedBytes }),
	counter("received_bytes_total", "Bytes of MQTT received.", func(s *broker.Stats) int64 { return s.BytesReceived }),
	counter("sent_bytes_total", "Bytes of MQTT sent.", func(s *broker.Stats) int64 { return s.BytesSent }),
	counters("packets_received_total", "Packets received, by type.", "type", func(s *broker.Stats, emit func(float64, ...string)) {
		for t, n := range s.PacketsReceived {
			emit(float64(n), t.String())
		}
	}),
	counters("messages_received_total", "PUBLISH packets received, by QoS.", "qos",
		byQoS(func(s *broker.Stats) [3]int64 { return s.MessagesReceived })),
	counters("messages_sent_total", "PUBLISH packets sent, by QoS.", "qos", byQoS(func(s *broker.Stats) [3]int64 { return s.MessagesSent })),
	counter("payload_received_bytes_total", "Bytes of payload received.", func(s *broker.Stats) int64 { return s.PayloadReceived }),
	counter("payload_sent_bytes_total", "Bytes of payload sent.", func(s *broker.Stats) int64 { return s.PayloadSent }),
	counter("messages_refused_total", "Messages not accepted from clients: not authorized, or invalid.",
		func(s *broker.Stats) int64 { return s.Refused }),
	counters("messages_dropped_total", "Messages not delivered to a client, by reason.", "reason",
		func(s *broker.Stats, emit func(float64, ...string)) {
			for r, n := range s.Dropped {
				emit(float64(n), r.String())
			}
		}),
	gauge("memory_limit_bytes", "Limit of the memory of the process, 0 for none.", func(s *broker.Stats) int64 { return s.MemoryLimit }),
	gauge("memory_used_bytes", "Memory of the process that the limit is about.", func(s *broker.Stats) int64 { return s.MemoryUsed }),
	gauge("memory_level", "How near the memory is to its limit: 0 normal, 1 soft, 2 hard.", func(s *broker.Stats) int { return int(s.MemoryLevel) }),
	counter("memory_disconnects_total", "Connections that ended because memory was short.", func(s *broker.Stats) int64 { return s.MemoryDisconnects }),
	one(prometheus.GaugeValue, "start_time_seconds", "When the broker started, in Unix time.",
		func(s *broker.Stats) float64 { return float64(s.Started.UnixMilli()) / 1000 }),
}

var (
	turnDesc = prometheus.NewDesc("magpie_turn_seconds",
		"Time from reading a batch of packets to having written what follows from it.", nil, nil)
	loginDesc = prometheus.NewDesc("magpie_login_seconds", "Time from a connection to its CONNACK, of clients let in.", nil, nil)
)

// Collector is a broker as Prometheus collects from it.
type Collector struct {
	broker *broker.Broker
	info   prometheus.Metric
}

// NewCollector makes a collector of the broker's numbers alone, for a registry of the caller's. The version is shown as a label
// of magpie_info.
func NewCollector(b *broker.Broker, version string) *Collector {
	desc := prometheus.NewDesc("magpie_info", "Always 1; what this broker is.", nil,
		prometheus.Labels{"version": version, "durability": b.Stats().Durability})
	return &Collector{b, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, 1)}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
	ch <- turnDesc
	ch <- loginDesc
	ch <- c.info.Desc()
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	st := c.broker.Stats()
	for _, m := range metrics {
		m.value(&st, func(v float64, labels ...string) { ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...) })
	}
	ch <- c.info
	ch <- histogram(turnDesc, st.Turns)
	ch <- histogram(loginDesc, st.Logins)
}

func histogram(desc *prometheus.Desc, h *broker.Histogram) prometheus.Metric {
	upTo, count, sum := h.Buckets()
	buckets := make(map[float64]uint64, len(upTo))
	for limit, n := range upTo {
		buckets[limit.Seconds()] = uint64(n)
	}
	return prometheus.MustNewConstHistogram(desc, uint64(count), sum.Seconds(), buckets)
}
