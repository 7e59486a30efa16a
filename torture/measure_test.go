package torture

import (
	"bufio"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// measure is something of which a broker must not hold more and more.
type measure struct {
	name   string
	metric string  // empty: the bytes of the data directory
	unit   float64 // in the table
	factor float64 // how many times as much it may become,
	slack  float64 // and how much more
}

func (m *measure) bound(before float64) float64 { return before*m.factor + m.slack }

var measures = []measure{
	{"memory MB", "process_resident_memory_bytes", 1e6, 1.25, 20e6},
	{"goroutines", "go_goroutines", 1, 1.25, 20},
	{"descriptors", "process_open_fds", 1, 1.25, 20},
	{"disk MB", "", 1e6, 1.25, 16e6},
}

// remains are the metrics that are zero when all clients have taken back what they had.
var remains = []string{"clients_connected", "sessions", "subscriptions", "shared_groups", "retained_messages", "queued_messages"}

// sample is what a broker holds at a moment.
type sample struct {
	what   string
	values []float64 // by measures
	left   []float64 // by remains
}

// held lists what is more than before, beyond the bounds, and what should not be there at all.
func (x *sample) held(before sample) (held []string) {
	for i, v := range x.left {
		if v > 0 {
			held = append(held, fmt.Sprintf("%s: %.0f", remains[i], v))
		}
	}
	for i, v := range x.values {
		if before.values != nil && v > measures[i].bound(before.values[i]) {
			held = append(held, fmt.Sprintf("%s: %.0f, was %.0f", measures[i].name, v, before.values[i]))
		}
	}
	return held
}

// measure asks the broker.
func (s *soak) measure(what string) sample {
	x := sample{what: what, values: make([]float64, len(measures)), left: make([]float64, len(remains))}
	metrics, err := s.metrics()
	if err != nil {
		s.fail("metrics: %v", err)
		return x
	}
	for i, m := range measures {
		x.values[i] = metrics[m.metric]
		if m.metric == "" {
			x.values[i] = diskUse(s.server.data)
		}
	}
	for i, name := range remains {
		v, ok := metrics["magpie_"+name]
		if !ok {
			s.fail("there is no metric magpie_%s", name)
		}
		x.left[i] = v
	}
	return x
}

// metrics reads all metrics, by name and labels.
func (s *soak) metrics() (map[string]float64, error) {
	c := http.Client{Timeout: patience}
	for began := time.Now(); ; {
		s.server.mu.Lock()
		web := s.server.web
		s.server.mu.Unlock()
		if web == "" && time.Since(began) < patience {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		r, err := c.Get("http://" + web + "/metrics")
		if err != nil {
			return nil, err
		}
		defer func() { _ = r.Body.Close() }()
		m := make(map[string]float64)
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), " ")
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				m[name] = v
			}
		}
		return m, nil
	}
}

// diskUse returns the bytes of all files below a folder. Some come and go meanwhile.
func diskUse(dir string) (bytes float64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			bytes += float64(info.Size())
		}
		return nil
	})
	return bytes
}
