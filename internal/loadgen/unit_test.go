package loadgen

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// TestHistogram holds quantiles against those of sorted times.
func TestHistogram(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var all []int64
		h, half := &histogram{}, &histogram{}
		for range 1 + r.IntN(2000) {
			v := int64(math.Exp(r.Float64() * 30)) // from 1 ns to three hours
			all = append(all, v)
			if r.IntN(2) == 0 {
				h.add(v)
			} else {
				half.add(v)
			}
		}
		h.merge(half)
		slices.Sort(all)
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			want := float64(all[max(1, int(q*float64(len(all))+0.5))-1])
			if got := h.quantile(q); math.Abs(got-want) > 0.01*want {
				t.Fatalf("seed %d: quantile %v of %d times is %v, want %v", seed, q, len(all), got, want)
			}
		}
		if h.max != all[len(all)-1] || h.n != uint64(len(all)) {
			t.Fatalf("seed %d: %d times, at most %d", seed, h.n, h.max)
		}
	}
	h := &histogram{}
	if h.quantile(0.5) != 0 {
		t.Error("nothing has a quantile")
	}
	h.add(-5)
	h.add(math.MaxInt64)
	if h.quantile(0) != 0 || h.max != math.MaxInt64 {
		t.Errorf("the ends: %v and %d", h.quantile(0), h.max)
	}
}

// TestOrder holds the verdicts against a set of all numbers that have come.
func TestOrder(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		depth := []int{1, 64, 256, 1000}[r.IntN(4)]
		o := newOrder(3, depth)
		window := uint32(o.words * 64)
		seen, highest := [3]map[uint32]bool{{}, {}, {}}, [3]uint32{}
		for range 3000 {
			who := r.IntN(3)
			seq := highest[who] + 1
			switch r.IntN(10) {
			case 0:
				seq += r.Uint32N(3 * window)
			case 1, 2:
				seq -= min(seq-1, r.Uint32N(2*window))
			}
			want := fresh
			switch {
			case seq > highest[who]:
			case highest[who]-seq >= window:
				want = late
			case seen[who][seq]:
				want = duplicate
			default:
				want = late
			}
			if got := o.arrive(who, seq); got != want {
				t.Fatalf("seed %d: %d after %d of %d: verdict %d, want %d", seed, seq, highest[who], who, got, want)
			}
			seen[who][seq] = true
			highest[who] = max(highest[who], seq)
		}
	}
}

// TestPace has every message be due once, at a time that its number gives.
func TestPace(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		p := pace{rate: math.Exp(r.Float64() * 16), start: r.Int64N(1 << 50)}
		last := p.start
		for n := range int64(500) {
			at := p.at(n)
			if at < last {
				t.Fatalf("seed %d: rate %v: message %d is due before the one before it", seed, p.rate, n)
			}
			if due, _ := p.due(at); due <= n {
				t.Fatalf("seed %d: rate %v: message %d is due at %d, but only %d are", seed, p.rate, n, at-p.start, due)
			}
			if due, _ := p.due(at - 1); due > n {
				t.Fatalf("seed %d: rate %v: message %d is due before %d", seed, p.rate, n, at-p.start)
			}
			ideal := float64(n+1) * 1e9 / p.rate
			if late := float64(at-p.start) - ideal; late < -1 || late > float64(tick)+1 {
				t.Fatalf("seed %d: rate %v: message %d is due %v ns late", seed, p.rate, n, late)
			}
			last = at
		}
	}
}

// TestPlanErrors are plans that cannot work, and nothing is connected for them.
func TestPlanErrors(t *testing.T) {
	pairs := Plan{URL: "mqtt://127.0.0.1:1", Publishers: 2, Subscribers: 2, Topic: "a/{n}", Filter: "a/{n}"}
	tests := []struct {
		change func(*Plan)
		want   string
	}{
		{func(p *Plan) { p.URL = "http://x" }, "unknown scheme"},
		{func(p *Plan) { p.URL = "mqtt://%zz" }, "not a URL"},
		{func(p *Plan) { p.Publishers, p.Subscribers = 0, 0 }, "not all zero"},
		{func(p *Plan) { p.Idle = -1 }, "negative"},
		{func(p *Plan) { p.Idle = 1 << 25 }, "more than one generator can have"},
		{func(p *Plan) { p.Subscribers = 1 }, "as many of each"},
		{func(p *Plan) { p.Topic = "a/b" }, "which topic \"a/b\" has not"},
		{func(p *Plan) { p.Filter = "b/#" }, "does not match"},
		{func(p *Plan) { p.Filter = "$share/g/b/#" }, "does not match"},
		{func(p *Plan) { p.Filter = "a/#/{n}" }, "filter"},
		{func(p *Plan) { p.Filter = "a/#" + "/x" }, "filter"},
		{func(p *Plan) { p.Topic = "a/+" }, "topic"},
		{func(p *Plan) { p.Topic, p.Filter = "{n}/{n}", "+/{n}"; p.Topic = "a/{n}"; p.Filter = "{n}/+" }, "does not match"},
		{func(p *Plan) { p.Version = 7 }, "no such version"},
		{func(p *Plan) { p.QoS = 3 }, "QoS"},
		{func(p *Plan) { p.Size = 23 }, "at least 24"},
		{func(p *Plan) { p.Inflight = 70_000 }, "65535"},
		{func(p *Plan) { p.Window = -1 }, "window"},
		{func(p *Plan) { p.Loops = -1 }, "loops"},
		{func(p *Plan) { p.Loops = 100 }, "more loops than connections"},
		{func(p *Plan) { p.Rate = math.NaN() }, "rates"},
		{func(p *Plan) { p.Duration = -1 }, "times"},
		{func(p *Plan) { p.KeepAlive = 100_000 * time.Second }, "keep alive"},
		{func(p *Plan) { p.Publishers, p.Subscribers, p.Filter = 1<<20, 1<<10, "a/+" }, "cannot be checked"},
	}
	for _, test := range tests {
		p := pairs
		test.change(&p)
		_, err := Run(t.Context(), p)
		var plan *PlanError
		if !errors.As(err, &plan) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v", test.want, err)
		}
	}
}

// TestDescriptors refuses what the system does not allow before anything is connected.
func TestDescriptors(t *testing.T) {
	_, err := Run(t.Context(), Plan{URL: "mqtt://127.0.0.1:1", Idle: 1 << 24})
	var few *DescriptorError
	if limit, known := descriptorLimit(); known && limit < 1<<24 {
		if !errors.As(err, &few) || few.Need != 1<<24+spareDescriptors || few.Limit != limit {
			t.Errorf("got %v", err)
		}
		return
	}
	if err := checkDescriptors(math.MaxInt32); err != nil && !errors.As(err, &few) {
		t.Errorf("got %v", err)
	}
}

// TestRaw tells which connections can be sockets of our own.
func TestRaw(t *testing.T) {
	for url, want := range map[string]bool{"mqtt://h": hasRaw, "tcp://h": hasRaw, "unix:///p": hasRaw, "mqtts://h": false, "ws://h": false, "wss://h": false} {
		if p := (Plan{URL: url}); p.raw() != want {
			t.Errorf("%s: %v", url, p.raw())
		}
	}
	if p := (Plan{URL: "mqtt://h", Goroutines: true}); p.raw() {
		t.Error("goroutines were asked for")
	}
	p := Plan{URL: "mqtt://h", Dial: transport.DialConfig{Dialer: nil}}
	if p.raw() != hasRaw {
		t.Error("a plain dialler")
	}
}

// TestProcess measures this very process, and refuses one that is not there.
func TestProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		if _, err := observe(os.Getpid()); err == nil {
			t.Error("without /proc nothing can be measured")
		}
		return
	}
	p, err := observe(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p.begin()
	for end := p.cpuBegin + 3*clockTick; p.cpuEnd < end; {
		if p.end(); p.err != nil {
			t.Fatal(p.err)
		}
	}
	u := p.usage(1, 1000, 10)
	if u == nil || u.CPU <= 0 || u.PerMessage <= 0 || u.RSS < 1<<20 {
		t.Errorf("usage: %+v", u)
	}
	if _, err := observe(1 << 30); err == nil {
		t.Error("there is no such process")
	}
	if p, err := observe(0); p != nil || err != nil || p.usage(1, 1, 1) != nil {
		t.Error("no process is nothing to measure")
	}
}

// FuzzReceived feeds a connection with anything, in two pieces: nothing may panic, and what is used is at most what was there.
func FuzzReceived(f *testing.F) {
	m := mqtt.Publish{Topic: []byte("a"), QoS: 1, PacketID: 7, Payload: make([]byte, 64)}
	f.Add(m.Append(nil, mqtt.V5), 10, true)
	f.Add(m.Append(nil, mqtt.V311), 70, false)
	m.Payload = make([]byte, 10_000)
	f.Add(m.Append(nil, mqtt.V5), 100, true)
	f.Add([]byte{0x40, 2, 0, 1, 0x50, 2, 0, 1, 0x62, 2, 0, 1, 0xe0, 0}, 5, false)
	f.Fuzz(func(t *testing.T, b []byte, cut int, v5 bool) {
		p := Plan{Version: mqtt.V311, Publishers: 1, Subscribers: 1, Topic: "a", Filter: "a", QoS: 1, SubQoS: 2}
		if v5 {
			p.Version = mqtt.V5
		}
		d := &director{run: newRun(p.withDefaults(1), 1)}
		l := &loop{run: d.run, poller: &nowhere{}, failures: map[string]int{}, drops: map[string]int{}}
		d.loops = []*loop{l}
		d.makeConns()
		for _, c := range l.conns {
			c.state = ready
			if c.pub != nil {
				c.pub.allow(10)
			}
			first := b[:min(len(b), max(cut, 0))]
			used := l.received(c, first)
			if used > len(first) {
				t.Fatalf("used %d of %d bytes", used, len(first))
			}
			if c.state == ready {
				l.received(c, b[used:])
			}
		}
	})
}

// nowhere is a poller of connections that lead nowhere.
type nowhere struct{ poller }

func (nowhere) drop(*conn) {}
