package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store/journal"
)

// on lets a queue live in another file system, in small segments.
func on(fs vfs.FS) Option {
	return func(s *settings) { s.queueFS, s.queueSegment = fs, 16<<10 }
}

// nowhere is a dialer without a server.
func nowhere(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no server") }

// queued makes a client with a queue that does not wait for its server.
func queued(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), dir string, opts ...Option) *Client {
	t.Helper()
	c, err := Dial(context.Background(), "mqtt://server", append([]Option{WithDialer(dial), WithLazyConnect(), WithClientID("pub"), WithSession(time.Hour),
		WithQueue(dir), WithBackoff(time.Microsecond, time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closeNow(t *testing.T, c *Client) {
	t.Helper()
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	<-c.Done()
}

// TestQueueOutlivesProgram: what was accepted while there was no server arrives when the next program finds one, whole and in order, and then
// the queue is empty.
func TestQueueOutlivesProgram(t *testing.T) {
	const many = 3000 // more than memory keeps
	fs := vfs.NewMem()
	c := queued(t, nowhere, "q", on(fs))
	for i := range many {
		opts := []PublishOption{Queued, QoS(1 + i%2), UserProperty("n", strconv.Itoa(i)), Expiry(time.Hour)}
		if i == many-1 {
			opts = append(opts, Retain)
		}
		if err := c.Publish(t.Context(), "a/b", binary.BigEndian.AppendUint64(nil, uint64(i)), opts...); err != nil {
			t.Fatal(err)
		}
	}
	closeNow(t, c)

	dial := startBroker(t, broker.Config{})
	sub := connectTo(t, dial, mqtt.V5)
	var got [2][]uint64
	all := make(chan struct{})
	if _, err := sub.Subscribe(t.Context(), "a/#", func(d *Delivery) {
		n := binary.BigEndian.Uint64(d.Payload)
		for key, value := range d.Props.User() {
			if key != "n" || value != strconv.Itoa(int(n)) {
				t.Errorf("message %d has the property %q = %q", n, key, value)
			}
		}
		if left := time.Until(d.Expires); left > time.Hour+10*time.Second || left < time.Minute || d.QoS != mqtt.QoS(1+n%2) || d.Retain != (n == many-1) {
			t.Errorf("message %d, %v left: %+v", n, left, d.Message)
		}
		got[n%2] = append(got[n%2], n)
		if len(got[0])+len(got[1]) == many {
			close(all)
		}
	}, ExactlyOnce, RetainAsPublished); err != nil {
		t.Fatal(err)
	}
	c = queued(t, dial, "q", on(fs))
	if st := c.Stats(); st.Connections == 0 && st.Pending != many {
		t.Errorf("%d are pending", st.Pending)
	}
	<-all
	for parity, ns := range got {
		if !slices.IsSorted(ns) || len(ns) != many/2 {
			t.Errorf("QoS %d: %d messages, in order: %v", 1+parity, len(ns), slices.IsSorted(ns))
		}
	}
	waitSettled(t, c)
	closeNow(t, c)
	c = queued(t, nowhere, "q", on(fs))
	if st := c.Stats(); st.Pending != 0 || len(c.queue.live) != 0 || len(c.queue.log.Segments()) > 2 {
		t.Errorf("left: %d messages, %d segments", st.Pending, len(c.queue.log.Segments()))
	}
	closeNow(t, c)
}

// waitSettled waits until the server has acknowledged everything.
func waitSettled(t *testing.T, c *Client) {
	t.Helper()
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.await(ctx, func() (bool, error) {
		n, _ := s.pending()
		return n == 0, nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestQueueContinuesHandshakes: a new program continues those of QoS 2 where the old one was.
func TestQueueContinuesHandshakes(t *testing.T) {
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprintf("kept %v", kept), func(t *testing.T) {
			fs := vfs.NewMem()
			s := newServers(t, mqtt.V5)
			c := queued(t, s.dial, "q", on(fs))
			p, _ := s.accept(mqtt.Connack{})
			var ids []uint16
			for _, name := range []string{"received", "sent", "one"} {
				qos := ExactlyOnce
				if name == "one" {
					qos = AtLeastOnce
				}
				if err := c.Publish(t.Context(), name, nil, Queued, qos); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, p.publish().PacketID)
			}
			p.sendAck(mqtt.PUBREC, ids[0], mqtt.Success)
			p.ack(mqtt.PUBREL)
			s.setRefuse(errors.New("no"))
			_ = p.nc.Close()
			closeNow(t, c)

			s = newServers(t, mqtt.V5)
			c = queued(t, s.dial, "q", on(fs))
			p, _ = s.accept(mqtt.Connack{SessionPresent: kept})
			if kept {
				if a := p.ack(mqtt.PUBREL); a.PacketID != ids[0] {
					t.Errorf("PUBREL of %d, want %d", a.PacketID, ids[0])
				}
				p.sendAck(mqtt.PUBCOMP, ids[0], mqtt.Success)
			}
			sent := p.publish()
			sentName := string(sent.Topic)
			one := p.publish()
			if sentName != "sent" || sent.Dup != kept || sent.PacketID != ids[1] {
				t.Errorf("%+v", sent)
			}
			if string(one.Topic) != "one" || one.Dup {
				t.Errorf("%+v", one)
			}
			p.finishPublish(sent)
			p.finishPublish(one)
			waitSettled(t, c)
			go swallow(p.nc)
			closeNow(t, c)
		})
	}
}

// TestQueueSetsAside: what the server refuses is put into a file, reported, and not sent again.
func TestQueueSetsAside(t *testing.T) {
	dir := t.TempDir()
	s := newServers(t, mqtt.V5)
	refused := make(chan Refused, 1)
	c := queued(t, s.dial, dir, OnRefused(func(r Refused) { refused <- r }))
	p, _ := s.accept(mqtt.Connack{})
	for _, name := range []string{"bad", "good"} {
		if err := c.Publish(t.Context(), name, []byte("payload"), Queued, ExactlyOnce); err != nil {
			t.Fatal(err)
		}
	}
	p.sendAck(mqtt.PUBREC, p.publish().PacketID, mqtt.NotAuthorized)
	p.finishPublish(p.publish())
	r := <-refused
	isServerError(t, r.Reason, mqtt.PUBREC, mqtt.NotAuthorized)
	b, err := os.ReadFile(r.File)
	if err != nil {
		t.Fatal(err)
	}
	var f asideFile
	if err := json.Unmarshal(b, &f); err != nil || f.Topic != "bad" || string(f.Payload) != "payload" || f.QoS != 2 {
		t.Errorf("%s: %v", b, err)
	}
	waitSettled(t, c)
	go swallow(p.nc)
	closeNow(t, c)
	c = queued(t, nowhere, dir)
	if st := c.Stats(); st.Pending != 0 {
		t.Errorf("%d messages are left", st.Pending)
	}
	closeNow(t, c)
}

// TestQueueFull: Publish waits for room, and a message that is taken back leaves it.
func TestQueueFull(t *testing.T) {
	c := queued(t, nowhere, "q", on(vfs.NewMem()), WithQueueLimit(1000))
	payload := make([]byte, 600)
	for range 2 {
		if err := c.Publish(t.Context(), "a", payload, Queued); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Publish(ctx, "a", payload, Queued); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrOffline) {
		t.Error(err)
	}
	if st := c.Stats(); st.Pending != 2 {
		t.Errorf("%d are pending", st.Pending)
	}
	closeNow(t, c)
}

// TestQueueOfAnother: two programs cannot have one queue.
func TestQueueOfAnother(t *testing.T) {
	fs := vfs.NewMem()
	c := queued(t, nowhere, "q", on(fs))
	_, err := Dial(t.Context(), "mqtt://a", WithQueue("q"), on(fs), WithLazyConnect())
	var locked *journal.LockedError
	if !errors.As(err, &locked) {
		t.Error(err)
	}
	closeNow(t, c)
}

// TestQueueDiskFails: a sync that fails ends the client; nothing more is accepted.
func TestQueueDiskFails(t *testing.T) {
	fs := vfs.NewFaulty(vfs.NewMem())
	c := queued(t, nowhere, "q", on(fs))
	if err := c.Publish(t.Context(), "a", nil, Queued); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken disk")
	fs.Set(vfs.Fault{Op: vfs.OpSync, Nth: 1, Forever: true, Err: broken})
	if err := c.Publish(t.Context(), "b", nil, Queued); !errors.Is(err, broken) {
		t.Error(err)
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// power is a dialer that can be cut for good.
type power struct {
	dial func(context.Context, string, string) (net.Conn, error)
	mu   sync.Mutex
	off  bool
	last net.Conn
}

func (p *power) connect(ctx context.Context, network, address string) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		return nil, errors.New("no power")
	}
	nc, err := p.dial(ctx, network, address)
	p.last = nc
	return nc, err
}

func (p *power) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	if p.last != nil {
		_ = p.last.Close()
	}
}

// arrivals are the numbers that a subscriber has received.
type arrivals struct {
	mu   sync.Mutex
	seen map[uint64]int
	last uint64
	bad  []string

	latest chan uint64 // the number that came last
}

func newArrivals() *arrivals {
	return &arrivals{seen: make(map[uint64]int), latest: make(chan uint64, 1)}
}

func (a *arrivals) handle(d *Delivery) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := binary.BigEndian.Uint64(d.Payload)
	select {
	case <-a.latest:
	default:
	}
	a.latest <- n
	if a.seen[n]++; a.seen[n] > 1 {
		if d.QoS == mqtt.ExactlyOnce {
			a.bad = append(a.bad, fmt.Sprintf("%d came twice", n))
		}
		return
	}
	if n < a.last {
		a.bad = append(a.bad, fmt.Sprintf("%d came after %d", n, a.last))
	}
	a.last = n
}

// TestQueuePowerLoss: the power fails at random moments, and the disk keeps what was synced and random parts of the rest. Everything that
// Publish had accepted arrives, with QoS 2 exactly once, in order.
func TestQueuePowerLoss(t *testing.T) {
	for _, qos := range []QoS{AtLeastOnce, ExactlyOnce} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			seed := rand.Uint64()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			testPowerLoss(t, qos, rand.New(rand.NewPCG(seed, 0)), 300)
		})
	}
}

func testPowerLoss(t *testing.T, qos QoS, r *rand.Rand, losses int) {
	dial := startBroker(t, broker.Config{})
	book := newArrivals()
	sub := connectTo(t, dial, mqtt.V5)
	if _, err := sub.Subscribe(t.Context(), "n", book.handle, qos); err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewMem()
	next := uint64(1)
	var accepted []uint64
	for range losses {
		p := &power{dial: dial}
		c := queued(t, p.connect, "q", on(fs))
		for range r.IntN(30) {
			if err := c.Publish(t.Context(), "n", binary.BigEndian.AppendUint64(nil, next), Queued, qos); err != nil {
				t.Fatal(err)
			}
			accepted = append(accepted, next)
			next++
		}
		var more sync.WaitGroup
		if n := next; r.IntN(2) == 0 { // under way when the power fails
			next++
			more.Go(func() { _ = c.Publish(t.Context(), "n", binary.BigEndian.AppendUint64(nil, n), Queued, qos) })
		}
		p.cut()
		fs = fs.Crash(r.Uint64())
		more.Wait()
		closeNow(t, c)
	}
	c := queued(t, dial, "q", on(fs))
	waitSettled(t, c)
	closeNow(t, c)
	last := connectTo(t, dial, mqtt.V5)
	if err := last.Publish(t.Context(), "n", binary.BigEndian.AppendUint64(nil, next), qos); err != nil {
		t.Fatal(err)
	}
	book.awaitNumber(t, next)
	book.check(t, accepted)
}

// awaitNumber waits until a number has come, after which nothing is to be expected.
func (a *arrivals) awaitNumber(t *testing.T, n uint64) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		select {
		case got := <-a.latest:
			if got == n {
				return
			}
		case <-limit.C:
			t.Fatalf("%d has not come", n)
		}
	}
}

func (a *arrivals) check(t *testing.T, accepted []uint64) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.bad[:min(len(a.bad), 5)] {
		t.Error(b)
	}
	for _, n := range accepted {
		if a.seen[n] == 0 {
			t.Errorf("%d was accepted and is lost", n)
		}
	}
}

// childURL is the environment variable that makes the test binary a program that publishes or, with childRole, one that receives; childDir is
// where its queue is, and childFirst its first number.
const (
	childURL   = "MAGPIE_CLIENT_CHILD_URL"
	childRole  = "MAGPIE_CLIENT_CHILD_ROLE"
	childDir   = "MAGPIE_CLIENT_CHILD_DIR"
	childFirst = "MAGPIE_CLIENT_CHILD_FIRST"
)

// publishForEver prints each number when it is accepted.
func publishForEver(url string) {
	c, err := Dial(context.Background(), url, WithClientID("child"), WithSession(time.Hour), WithLazyConnect(), WithQueue(os.Getenv(childDir)))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	first, _ := strconv.ParseUint(os.Getenv(childFirst), 10, 64)
	for n := first; n < first+100_000; n++ {
		if err := c.Publish(context.Background(), "n", binary.BigEndian.AppendUint64(nil, n), Queued, ExactlyOnce); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
	os.Exit(0)
}

// TestQueueKill: a program is killed at random moments while it publishes. Nothing that it had accepted is lost, nothing comes twice.
func TestQueueKill(t *testing.T) {
	url, _ := listeningBroker(t)
	dir := filepath.Join(t.TempDir(), "queue")
	book := newArrivals()
	sub, err := Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Subscribe(t.Context(), "n", book.handle, ExactlyOnce); err != nil {
		t.Fatal(err)
	}
	var accepted []uint64
	for life := range uint64(15) {
		accepted = append(accepted, publishAndDie(t, url, dir, 1+life*1_000_000, rand.IntN(300))...)
	}
	c, err := Dial(t.Context(), url, WithClientID("child"), WithSession(time.Hour), WithQueue(dir))
	if err != nil {
		t.Fatal(err)
	}
	waitSettled(t, c)
	const last = 1 << 40
	if err := c.Publish(t.Context(), "n", binary.BigEndian.AppendUint64(nil, last), ExactlyOnce); err != nil {
		t.Fatal(err)
	}
	book.awaitNumber(t, last)
	book.check(t, accepted)
	closeNow(t, c)
	closeNow(t, sub)
	t.Logf("%d accepted, %d arrived", len(accepted), len(book.seen))
}

// publishAndDie runs a program until it has accepted so many numbers, kills it, and returns those it has told of.
func publishAndDie(t *testing.T, url, dir string, first uint64, count int) (accepted []uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childURL+"="+url, childDir+"="+dir, childFirst+"="+strconv.FormatUint(first, 10))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer limit.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Errorf("child says %q", lines.Text())
			break
		}
		if accepted = append(accepted, n); len(accepted) == count+1 {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	return accepted
}
