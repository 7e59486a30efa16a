//go:build !race

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// The broker under attack may take this much memory, in bytes, and its process this much more: the program itself, what the runtime
// does not count, and what comes faster than it can be refused.
const (
	besiegedLimit = 96 << 20
	besiegedSlack = 32 << 20
)

// siege is how long each attack goes on.
const siege = 1500 * time.Millisecond

// The race detector's own memory would count as the broker's, so this runs without.
//
// No client makes the process take more than its limit: not by reading nothing, nor by half-sent packets, nor by what it wants to be
// kept, nor by being many, nor by all of that at once. Two others exchange messages all the time.
func TestMemorySiege(t *testing.T) {
	for _, mode := range []string{"memory", "durable"} {
		t.Run(mode, func(t *testing.T) {
			c := besiege(t, mode)
			c.attack("slow subscribers", c.slowSubscribers)
			c.attack("half-sent packets", c.halfSent)
			c.attack("large retained messages", c.retainMuch)
			c.attack("sessions that are away", c.sessionsAway)
			c.attack("idle connections", c.idle)
			c.attack("everything at once", c.slowSubscribers, c.halfSent, c.retainMuch, c.sessionsAway, c.idle)
		})
	}
}

// castle is a broker in a process of its own.
type castle struct {
	*testing.T
	cmd   *exec.Cmd
	mqtt  string // host:port
	web   string
	calls sync.WaitGroup
	mu    sync.Mutex // guards conns
	conns []net.Conn // of attackers
}

// besiege starts a broker, and the pair that must not notice anything.
func besiege(t *testing.T, mode string) *castle {
	dir := t.TempDir()
	config := dir + "/magpie.yaml"
	if err := os.WriteFile(config, fmt.Appendf(nil, "memory: {limit: %d}\nauth: {allow_anonymous: true}\n", besiegedLimit), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &castle{T: t, cmd: exec.Command("magpie", "serve", "--config", config, "--data", dir+"/data", "--durability", mode,
		"--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn")}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	c.cmd.Stderr = &log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := watch(stdout)
	t.Cleanup(func() {
		_ = c.cmd.Process.Signal(os.Interrupt)
		out.end()
		if err := c.cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the broker ended: %v\n%s", err, lastLines(log.String(), 60))
		}
	})
	if err := out.wait(regexp.MustCompile(`^look into it: `)); err != nil {
		t.Fatalf("%v\n%s", err, out.text())
	}
	c.mqtt = regexp.MustCompile(`mqtt://(\S+)`).FindStringSubmatch(out.text())[1]
	c.web = regexp.MustCompile(`http://(\S+)`).FindStringSubmatch(out.text())[1]
	c.startPair()
	return c
}

func lastLines(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// startPair lets two clients exchange messages until the test ends.
func (c *castle) startPair() {
	sub, pub := c.wellBehaved("pair-sub"), c.wellBehaved("pair-pub")
	sub.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: "pair", QoS: 1}}}).Append(nil, mqtt.V5))
	if _, err := sub.until(mqtt.SUBACK); err != nil {
		c.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	rounds, slowest := 0, time.Duration(0)
	go func() {
		defer close(done)
		for ; ; rounds++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			began := time.Now()
			if err := exchange(pub, sub, rounds); err != nil {
				c.Errorf("the pair suffers in round %d: %v", rounds, err)
				return
			}
			slowest = max(slowest, time.Since(began))
		}
	}()
	c.Cleanup(func() {
		close(stop)
		<-done
		c.Logf("the pair exchanged %d messages, the slowest took %v", rounds, slowest)
	})
}

// exchange sends one message with QoS 1, and sees it arrive.
func exchange(pub, sub *wire, round int) error {
	text := strconv.Itoa(round)
	for _, w := range []*wire{pub, sub} {
		_ = w.nc.SetDeadline(time.Now().Add(patience))
	}
	pub.send((&mqtt.Publish{Topic: []byte("pair"), Payload: []byte(text), QoS: 1, PacketID: 1}).Append(nil, mqtt.V5))
	f, err := sub.until(mqtt.PUBLISH)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	var m mqtt.Publish
	if err := m.Parse(f, mqtt.V5); err != nil || string(m.Payload) != text {
		return fmt.Errorf("%q came instead of %q (%v)", m.Payload, text, err)
	}
	sub.send((&mqtt.Ack{Type: mqtt.PUBACK, PacketID: m.PacketID}).Append(nil, mqtt.V5))
	if f, err = pub.until(mqtt.PUBACK); err != nil {
		return fmt.Errorf("acknowledgement: %w", err)
	}
	var a mqtt.Ack
	if err := a.Parse(f, mqtt.V5); err != nil || a.Code.Failed() {
		return fmt.Errorf("acknowledged with %v (%v)", a.Code, err)
	}
	return nil
}

// attack runs attacks at once, lets the attackers go, and looks at what the process took at most, and that it recovers.
func (c *castle) attack(name string, attacks ...func(end time.Time)) {
	c.Helper()
	end := time.Now().Add(siege)
	var all sync.WaitGroup
	for _, a := range attacks {
		all.Go(func() { a(end) })
	}
	all.Wait()
	st := c.metrics()
	peak := c.peak()
	c.Logf("%s: at most %d MiB resident; level %v, %v disconnected, dropped %v, %v connections", name, peak>>20, st["magpie_memory_level"],
		st["magpie_memory_disconnects_total"], st[`magpie_messages_dropped_total{reason="memory"}`], st["magpie_connections"])
	if most := int64(besiegedLimit + besiegedSlack); peak > most {
		c.Errorf("%s: %d MiB resident, want at most %d", name, peak>>20, most>>20)
	}
	c.mu.Lock()
	for _, nc := range c.conns {
		_ = nc.Close()
	}
	c.conns = nil
	c.mu.Unlock()
	c.calls.Wait()
	c.recover(name)
}

// recover waits until somebody new is let in and the level is normal.
func (c *castle) recover(name string) {
	c.Helper()
	clean := c.wellBehaved("cleaner") // waits until there is room
	for i := range 400 {
		p := mqtt.Publish{Topic: fmt.Append(nil, "kept/", i), QoS: 1, PacketID: 1, Retain: true}
		clean.send(p.Append(nil, mqtt.V5))
		if _, err := clean.until(mqtt.PUBACK); err != nil {
			c.Fatalf("after %s: %v", name, err)
		}
	}
	_ = clean.nc.Close()
	for i := range 60 {
		w := c.wellBehaved(fmt.Sprint("away-", i)) // a session that ends takes the place of the one that stays
		_ = w.nc.Close()
	}
	deadline := time.Now().Add(patience)
	for c.metrics()["magpie_memory_level"] != "0" {
		if time.Now().After(deadline) {
			c.Fatalf("after %s: memory is still short: %v", name, c.metrics())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// peak returns how many bytes of the process were resident at most, since it was asked last.
func (c *castle) peak() int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		c.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		c.Fatal(err)
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.cmd.Process.Pid), []byte("5"), 0) // else the peak is that of the whole test
	return kib << 10
}

// metrics returns the numbers of /metrics by name, with labels.
func (c *castle) metrics() map[string]string {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.web+"/metrics", nil)
	if err != nil {
		c.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatal(err)
	}
	numbers := make(map[string]string)
	for line := range strings.Lines(string(body)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			numbers[name] = value
		}
	}
	return numbers
}

// wire is one connection.
type wire struct {
	nc   net.Conn
	buf  []byte
	used int
}

func (c *castle) dial(end time.Time) (*wire, error) {
	nc, err := (&net.Dialer{Deadline: end}).Dial("tcp", c.mqtt)
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(end)
	return &wire{nc: nc}, nil
}

// login connects with a CONNECT. At the end nothing is waited for any more.
func (c *castle) login(id string, expiry, receiveMaximum uint32, end time.Time) (*wire, error) {
	w, err := c.dial(end)
	if err != nil {
		return nil, err
	}
	p := mqtt.Connect{Version: mqtt.V5, ClientID: id, CleanStart: true}
	p.Props = p.Props.WithInt(mqtt.SessionExpiryInterval, expiry).WithInt(mqtt.ReceiveMaximum, receiveMaximum)
	w.send(p.Append(nil))
	if _, err = w.until(mqtt.CONNACK); err != nil {
		_ = w.nc.Close()
		return nil, err
	}
	return w, nil
}

// wellBehaved connects somebody whom the test is not against.
func (c *castle) wellBehaved(id string) *wire {
	c.Helper()
	w, err := c.login(id, 0, 100, time.Now().Add(2*patience))
	if err != nil {
		c.Fatalf("%s is not let in: %v", id, err)
	}
	c.Cleanup(func() { _ = w.nc.Close() })
	return w
}

// foe keeps an attacker's connection until the end of the attack, and reports false for one that came too late.
func (c *castle) foe(w *wire, err error, end time.Time) bool {
	if err != nil || time.Now().After(end) {
		if w != nil {
			_ = w.nc.Close()
		}
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, w.nc)
	return true
}

func (w *wire) send(b []byte) { _, _ = w.nc.Write(b) } // an error shows when the answer is read

// until reads packets until there is one of the type. What it returns is good until it is called again.
func (w *wire) until(want mqtt.PacketType) (mqtt.Frame, error) {
	w.buf = w.buf[:copy(w.buf, w.buf[w.used:])]
	w.used = 0
	for {
		f, size, err := mqtt.ParseFrame(w.buf[w.used:], mqtt.V5, mqtt.MaxPacket)
		if err != nil {
			return f, err
		}
		if size > 0 && size <= len(w.buf)-w.used {
			w.used += size
			if f.Type == want {
				return f, nil
			}
			if f.Type == mqtt.DISCONNECT {
				return f, errors.New("disconnected")
			}
			continue
		}
		chunk := make([]byte, 64<<10)
		n, err := w.nc.Read(chunk)
		if w.buf = append(w.buf, chunk[:n]...); n == 0 {
			return f, err
		}
	}
}

// background runs the rest of an attack until its connections are closed.
func (c *castle) background(f func()) { c.calls.Go(f) }

// publisher publishes messages of a size as fast as it is let, one name after the other, and reads the answers.
func (c *castle) publisher(id string, qos mqtt.QoS, size int, retain bool, names []string, end time.Time) {
	w, err := c.login(id, 0, 100, end)
	if !c.foe(w, err, end) {
		return
	}
	c.background(func() { _, _ = io.Copy(io.Discard, w.nc) })
	payload := make([]byte, size)
	var b []byte
	for i := 0; time.Now().Before(end); i++ {
		p := mqtt.Publish{Topic: []byte(names[i%len(names)]), Payload: payload, QoS: qos, Retain: retain}
		if qos > 0 {
			p.PacketID = uint16(i%60_000 + 1)
		}
		b = p.Append(b[:0], mqtt.V5)
		if _, err := w.nc.Write(b); err != nil {
			return
		}
	}
}

// slowSubscribers subscribe, by turns with QoS 0 and 1, and read nothing of many large messages.
func (c *castle) slowSubscribers(end time.Time) {
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprint("slow/", i))
		w, err := c.login(names[i], 0, 1000, end)
		if !c.foe(w, err, end) {
			return
		}
		s := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: names[i], QoS: mqtt.QoS(i % 2)}, {Filter: "slow/all", QoS: mqtt.QoS(i % 2)}}}
		w.send(s.Append(nil, mqtt.V5))
	}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			c.publisher(fmt.Sprint("flood-", i), mqtt.QoS(i%2), 250<<10, false, append(names, "slow/all"), end)
		})
	}
	all.Wait()
}

// halfSent sends all but the last byte of packets of 1 MiB, and of CONNECTs before any login.
func (c *castle) halfSent(end time.Time) {
	packet := (&mqtt.Publish{Topic: []byte("half"), Payload: make([]byte, 1<<20-20)}).Append(nil, mqtt.V5)
	connect := (&mqtt.Connect{Version: mqtt.V5, ClientID: "half", HasPassword: true, HasUsername: true, Password: make([]byte, 60<<10)}).Append(nil)
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := 0; i < 150 && time.Now().Before(end); i++ {
				w, err := c.login(fmt.Sprint("half-", worker, "-", i), 0, 10, end)
				if !c.foe(w, err, end) {
					return
				}
				w.send(packet[:len(packet)-1])
				if w, err = c.dial(end); !c.foe(w, err, end) {
					return
				}
				w.send(connect[:len(connect)-1])
			}
		})
	}
	all.Wait()
}

// retainMuch wants 400 messages of nearly 1 MiB to be retained.
func (c *castle) retainMuch(end time.Time) {
	var names []string
	for i := range 400 {
		names = append(names, fmt.Sprint("kept/", i))
	}
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() { c.publisher(fmt.Sprint("keeper-", i), 1, 1000<<10, true, names[200*i:200*i+200], end) })
	}
	all.Wait()
}

// sessionsAway subscribe and leave; large messages wait for each.
func (c *castle) sessionsAway(end time.Time) {
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprint("away-", i))
		w, err := c.login(names[i], 100, 1000, end)
		if !c.foe(w, err, end) {
			return
		}
		w.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: names[i], QoS: 1}}}).Append(nil, mqtt.V5))
		if _, err := w.until(mqtt.SUBACK); err != nil {
			return
		}
		_ = w.nc.Close()
	}
	c.publisher("sender", 1, 200<<10, false, names, end)
}

// idle connects, and does nothing.
func (c *castle) idle(end time.Time) {
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := 0; i < 1000 && time.Now().Before(end); i++ {
				w, err := c.dial(end)
				if !c.foe(w, err, end) {
					return
				}
				if i%2 == 0 {
					w.send((&mqtt.Connect{Version: mqtt.V5, ClientID: fmt.Sprint("idle-", worker, "-", i), CleanStart: true}).Append(nil))
				}
			}
		})
	}
	all.Wait()
}
