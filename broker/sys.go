package broker

import (
	"cmp"
	"context"
	"fmt"
	"runtime/metrics"
	"strconv"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// publishSys publishes $SYS until ctx is done: retained numbers about the broker under the names that the users of
// Mosquitto know.
func (b *Broker) publishSys(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	loads := newLoads()
	last := make(map[string]string)
	for {
		st := b.Stats()
		values := sysValues(&st, b.config.Version, time.Now())
		loads.update(&st, time.Now(), values)
		for name, value := range values {
			if last[name] == value {
				continue // retained already
			}
			last[name] = value
			_ = b.Publish(&mqtt.Message{Topic: "$SYS/broker/" + name, Payload: []byte(value), Retain: true})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sysValues returns the numbers that need no history.
func sysValues(st *Stats, version string, now time.Time) map[string]string {
	v := make(map[string]string)
	num := func(name string, n int64) { v[name] = strconv.FormatInt(n, 10) }
	v["version"] = cmp.Or(version, "magpie")
	v["durability"] = st.Durability
	v["uptime"] = fmt.Sprintf("%d seconds", int(now.Sub(st.Started).Seconds()))
	num("clients/connected", int64(st.Connected))
	num("clients/active", int64(st.Connected))
	num("clients/disconnected", int64(st.Sessions-st.Connected))
	num("clients/inactive", int64(st.Sessions-st.Connected))
	num("clients/total", int64(st.Sessions))
	num("clients/maximum", int64(st.MaxConnected))
	num("clients/expired", st.ExpiredSessions)
	num("bytes/received", st.BytesReceived)
	num("bytes/sent", st.BytesSent)
	num("messages/received", total(st.PacketsReceived))
	num("messages/stored", st.QueuedMessages+int64(st.Retained))
	num("publish/messages/received", sum(st.MessagesReceived))
	num("publish/messages/sent", sum(st.MessagesSent))
	num("publish/messages/dropped", total(st.Dropped))
	for r, n := range st.Dropped {
		num("publish/messages/dropped/"+r.String(), n)
	}
	num("publish/messages/refused", st.Refused)
	num("publish/bytes/received", st.PayloadReceived)
	num("publish/bytes/sent", st.PayloadSent)
	num("retained messages/count", int64(st.Retained))
	num("store/messages/count", st.QueuedMessages+int64(st.Retained))
	num("store/messages/bytes", st.QueuedBytes+int64(st.RetainedBytes))
	num("subscriptions/count", int64(st.Subscriptions))
	num("shared_subscriptions/count", int64(st.SharedGroups))
	num("heap/current", heapBytes())
	num("memory/used", st.MemoryUsed)
	v["memory/level"] = st.MemoryLevel.String()
	if v["memory/limit"] = "unlimited"; st.MemoryLimit > 0 {
		num("memory/limit", st.MemoryLimit)
	}
	return v
}

func total[K comparable](counts map[K]int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}

func sum(byQoS [3]int64) int64 { return byQoS[0] + byQoS[1] + byQoS[2] }

// heapBytes returns the size of live and unswept objects.
func heapBytes() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// loads are moving averages per minute over 1, 5 and 15 minutes, as $SYS/broker/load has them.
type loads struct {
	at   time.Time
	last map[string]int64
	avg  map[string]*[3]float64
}

var loadSpans = [3]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}

func newLoads() *loads {
	return &loads{last: make(map[string]int64), avg: make(map[string]*[3]float64)}
}

// update takes the counters of now and adds the averages to values.
func (l *loads) update(st *Stats, now time.Time, values map[string]string) {
	counters := map[string]int64{
		"messages/received": total(st.PacketsReceived), "bytes/received": st.BytesReceived, "bytes/sent": st.BytesSent,
		"publish/received": sum(st.MessagesReceived), "publish/sent": sum(st.MessagesSent), "publish/dropped": total(st.Dropped),
		"connections": st.PacketsReceived[mqtt.CONNECT],
	}
	passed := now.Sub(l.at)
	for name, n := range counters {
		avg := l.avg[name]
		if avg == nil {
			avg = new([3]float64)
			l.avg[name] = avg
		} else if passed > 0 {
			perMinute := float64(n-l.last[name]) / passed.Minutes()
			for i, span := range loadSpans {
				weight := min(1, float64(passed)/float64(span))
				avg[i] += (perMinute - avg[i]) * weight
			}
		}
		l.last[name] = n
		for i, minutes := range [3]string{"1min", "5min", "15min"} {
			values["load/"+name+"/"+minutes] = strconv.FormatFloat(avg[i], 'f', 2, 64)
		}
	}
	l.at = now
}
