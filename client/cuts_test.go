package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// badLink is a dialer whose streams break after a random number of bytes in a random direction, in the middle of a write, like a
// link does: what was under way is lost, in both directions.
type badLink struct {
	dial func(context.Context, string, string) (net.Conn, error)

	mu   sync.Mutex
	rand *rand.Rand
	left int // cuts
	cuts int

	handshake int // bytes that most streams live through, so that not all are cut before they begin
}

// connect is the dialer.
func (l *badLink) connect(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := l.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left <= 0 {
		return nc, nil
	}
	c := &badStream{Conn: nc, link: l}
	c.reads, c.writes = l.bytes(), l.bytes()
	return c, nil
}

// bytes is how far a direction of a stream goes: from not at all to tens of thousands.
func (l *badLink) bytes() int {
	n := l.rand.IntN(1 << (6 + l.rand.IntN(10)))
	if l.rand.IntN(4) > 0 {
		n += l.handshake
	}
	return n
}

// cut counts one.
func (l *badLink) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cuts++
	l.left--
}

// badStream breaks when so many bytes were read or written.
type badStream struct {
	net.Conn
	link *badLink
	once sync.Once

	reads, writes int // of the reader and the writer, who are one goroutine each
}

func (c *badStream) cut() error {
	c.once.Do(c.link.cut)
	_ = c.Conn.Close()
	return io.EOF
}

func (c *badStream) Read(b []byte) (int, error) {
	if c.reads == 0 {
		return 0, c.cut()
	}
	n, err := c.Conn.Read(b[:min(len(b), c.reads)])
	c.reads -= n
	return n, err
}

func (c *badStream) Write(b []byte) (int, error) {
	n := min(len(b), c.writes)
	n, err := c.Conn.Write(b[:n])
	c.writes -= n
	if err == nil && n < len(b) {
		err = c.cut()
	}
	return n, err
}

// ledger is what one subscriber has received of one flow: the numbers of its messages must come in order, each once with QoS 2, and
// at least once with QoS 1.
type ledger struct {
	name string
	qos  QoS

	mu   sync.Mutex
	next uint64
	bad  []string
	more chan struct{} // something has come
}

func newLedger(name string, qos QoS) *ledger {
	return &ledger{name: name, qos: qos, more: make(chan struct{}, 1)}
}

// handle is the handler.
func (l *ledger) handle(d *Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := binary.BigEndian.Uint64(d.Payload)
	switch {
	case n == l.next:
		l.next++
		select {
		case l.more <- struct{}{}:
		default:
		}
	case n > l.next:
		l.bad = append(l.bad, fmt.Sprintf("%s: %d where %d was due", l.name, n, l.next))
		l.next = n + 1
	case l.qos == ExactlyOnce:
		l.bad = append(l.bad, fmt.Sprintf("%s: %d came twice", l.name, n))
	}
}

// await waits until n messages have come.
func (l *ledger) await(t *testing.T, n uint64) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		l.mu.Lock()
		got, bad := l.next, l.bad
		l.mu.Unlock()
		if got >= n || len(bad) > 0 {
			for _, b := range bad[:min(len(bad), 5)] {
				t.Error(b)
			}
			return
		}
		select {
		case <-l.more:
		case <-limit.C:
			t.Fatalf("%s: %d of %d have come", l.name, got, n)
		}
	}
}

// flow publishes numbers until the link has had its cuts, not far ahead of who receives them, and returns how many.
func flow(t *testing.T, c *Client, l *badLink, book *ledger, name string, qos QoS) (n uint64) {
	var last *Publication
	for {
		l.mu.Lock()
		over := l.left <= 0
		l.mu.Unlock()
		if over && n > 0 {
			break
		}
		p, err := c.PublishAsync(context.Background(), name, binary.BigEndian.AppendUint64(nil, n), qos)
		if err != nil {
			t.Errorf("publish %d to %s: %v", n, name, err)
			return n
		}
		last = p
		n++
		if n%16 == 0 {
			book.await(t, n-16)
		}
	}
	<-last.Done()
	if _, err := last.Result(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return n
}

// TestCuts: two clients exchange messages over links that break 10,000 times at random bytes. Nothing that was published is lost, QoS
// 2 comes exactly once, and all of it in order.
func TestCuts(t *testing.T) {
	for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			dial := startBroker(t, broker.Config{})
			link := newLink(t, dial, 5000)
			exchange(t, link, "mqtt://broker", nil, func() []Option { return []Option{WithDialer(link.connect), WithVersion(v)} })
		})
	}
}

// exchange lets two clients send each other messages until their link has had its cuts, and what was sent last has come. At the end they do
// something else, if it is not nil.
func exchange(t *testing.T, link *badLink, url string, atEnd func([2]*Client), opts func() []Option) {
	t.Helper()
	var clients [2]*Client
	for i := range clients {
		c, err := Dial(t.Context(), url, append([]Option{WithLazyConnect(), WithClientID(fmt.Sprint(t.Name(), i)), WithSession(time.Hour),
			WithBackoff(time.Microsecond, 20*time.Microsecond)}, opts()...)...)
		if err != nil {
			t.Fatal(err)
		}
		clients[i] = c
	}
	var flows sync.WaitGroup
	for i, c := range clients {
		other := clients[1-i]
		for _, qos := range []QoS{AtLeastOnce, ExactlyOnce} {
			name := fmt.Sprintf("from/%d/%d", i, qos)
			l := newLedger(name, qos)
			if _, err := other.Subscribe(t.Context(), name, l.handle, qos); err != nil {
				t.Fatal(err)
			}
			flows.Go(func() { l.await(t, flow(t, c, link, l, name, qos)) })
		}
	}
	flows.Wait()
	if atEnd != nil {
		atEnd(clients)
	}
	for _, c := range clients {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		<-c.Done()
	}
	t.Logf("%d cuts, %+v", link.cuts, clients[0].Stats())
}
