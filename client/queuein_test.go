package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
)

// TestQueueRemembersHandled: the power fails during the handshake of a message of QoS 2 that comes, and the next program goes on where the disk
// says: a message that was handled is not given to the handler again, one that was not is, and an identifier that the server has
// released is the next message's.
func TestQueueRemembersHandled(t *testing.T) {
	l := &lives{t: t, fs: vfs.NewMem(), got: make(chan string, 10)}
	p := l.begin(false)
	p.sendPublish(inbound(7, "a", false))
	l.expect("a")
	if a := p.ack(mqtt.PUBREC); a.PacketID != 7 || a.Code != mqtt.Success {
		t.Errorf("%+v", a)
	}
	l.end(p) // the server has not heard of it

	p = l.begin(true)
	p.sendPublish(inbound(7, "a", true))
	p.ack(mqtt.PUBREC)
	p.sendAck(mqtt.PUBREL, 7, mqtt.Success)
	p.ack(mqtt.PUBCOMP)
	p.sendPublish(inbound(7, "b", false))
	l.expect("b")
	p.ack(mqtt.PUBREC)
	l.end(p)

	p = l.begin(true)
	p.sendAck(mqtt.PUBREL, 7, mqtt.Success)
	if a := p.ack(mqtt.PUBCOMP); a.Code != mqtt.Success {
		t.Errorf("%+v", a)
	}
	l.end(p) // it has not heard of that either

	p = l.begin(true)
	p.sendAck(mqtt.PUBREL, 7, mqtt.Success)
	if a := p.ack(mqtt.PUBCOMP); a.Code != mqtt.PacketIdentifierNotFound {
		t.Errorf("%+v", a)
	}
	p.sendPublish(inbound(7, "c", false))
	l.expect("c")
	p.ack(mqtt.PUBREC)
	l.end(p)

	p = l.begin(false) // it has lost the session: nothing of before means anything
	p.sendPublish(inbound(7, "d", false))
	l.expect("d")
	p.ack(mqtt.PUBREC)
	l.end(p)
	l.nothingElse()
}

// TestQueueSessionLost: that the server has lost the session is on the disk before the new one gets a subscription.
func TestQueueSessionLost(t *testing.T) {
	l := &lives{t: t, fs: vfs.NewMem(), got: make(chan string, 10)}
	p := l.begin(false)
	p.sendPublish(inbound(7, "a", false))
	l.expect("a")
	p.ack(mqtt.PUBREC)
	l.end(p)
	l.end(l.begin(false))
	p = l.begin(true)
	p.sendPublish(inbound(7, "b", true))
	l.expect("b")
	p.ack(mqtt.PUBREC)
	l.end(p)
	l.nothingElse()
}

// TestQueueNotHandled: what no handler has finished, or none has seen, comes again.
func TestQueueNotHandled(t *testing.T) {
	l := &lives{t: t, fs: vfs.NewMem(), got: make(chan string, 10), gate: make(chan struct{})}
	p := l.begin(false)
	p.sendPublish(inbound(1, "a", false))
	p.sendPublish(inbound(2, "b", false))
	l.expect("a")
	_ = p.nc.Close()
	l.fs = l.fs.Crash(1)
	if err := l.c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	close(l.gate)
	<-l.c.Done()
	p = l.begin(true)
	p.sendPublish(inbound(1, "a", true))
	p.sendPublish(inbound(2, "b", true))
	l.expect("a")
	l.expect("b")
	p.ack(mqtt.PUBREC)
	p.ack(mqtt.PUBREC)
	l.end(p)
	l.nothingElse()
}

// TestQueueHandledDuringClose: a handler that returns after the connection and before the client's end counts.
func TestQueueHandledDuringClose(t *testing.T) {
	l := &lives{t: t, fs: vfs.NewMem(), got: make(chan string, 10), gate: make(chan struct{})}
	p := l.begin(false)
	p.sendPublish(inbound(1, "a", false))
	l.expect("a")
	l.dial.setRefuse(errors.New("no"))
	_ = p.nc.Close()
	if err := l.c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	close(l.gate)
	<-l.c.Done()
	p = l.begin(true)
	p.sendPublish(inbound(1, "a", true))
	p.ack(mqtt.PUBREC)
	l.end(p)
	l.nothingElse()
}

// TestQueueAcknowledgedTooLate: an acknowledgement after the end of the client means nothing.
func TestQueueAcknowledgedTooLate(t *testing.T) {
	s := newServers(t, mqtt.V5)
	c := queued(t, s.dial, "q", on(vfs.NewMem()))
	p, _ := s.accept(mqtt.Connack{})
	got := make(chan *Delivery, 1)
	go func() { p.suback(p.subscribe().PacketID, mqtt.GrantedQoS2) }()
	if _, err := c.Subscribe(t.Context(), "n", func(d *Delivery) { got <- d }, ExactlyOnce, ManualAck); err != nil {
		t.Fatal(err)
	}
	p.sendPublish(inbound(1, "a", false))
	d := <-got
	s.setRefuse(errors.New("no"))
	_ = p.nc.Close()
	closeNow(t, c)
	d.Acknowledge()
	if c.queue.retry != nil || len(c.queue.backlog) > 0 {
		t.Error("the queue has something to write after its end")
	}
}

// TestQueueGivesBackSegments: identifiers that the server never releases do not keep the log from being cut off, and are remembered all the
// same.
func TestQueueGivesBackSegments(t *testing.T) {
	const many = 5000 // notes: many segments of 16 KiB
	l := &lives{t: t, fs: vfs.NewMem(), got: make(chan string, 10)}
	p := l.begin(false)
	p.sendPublish(inbound(1, "stays", false))
	l.expect("stays")
	p.ack(mqtt.PUBREC)
	for range many / 2 {
		p.sendPublish(inbound(2, "goes", false))
		l.expect("goes")
		p.ack(mqtt.PUBREC)
		p.sendAck(mqtt.PUBREL, 2, mqtt.Success)
		p.ack(mqtt.PUBCOMP)
	}
	l.c.queue.tidy()
	if n := len(l.c.queue.log.Segments()); n > 3 {
		t.Errorf("%d segments", n)
	}
	l.end(p)
	p = l.begin(true)
	p.sendPublish(inbound(1, "stays", true))
	p.ack(mqtt.PUBREC)
	l.end(p)
	l.nothingElse()
}

func inbound(id uint16, payload string, dup bool) mqtt.Publish {
	return mqtt.Publish{Topic: []byte("n"), Payload: []byte(payload), QoS: mqtt.ExactlyOnce, PacketID: id, Dup: dup}
}

// lives are programs, one after the other, that receive messages of QoS 2 with the same queue.
type lives struct {
	t    *testing.T
	fs   *vfs.Mem
	c    *Client
	dial *servers
	got  chan string
	gate chan struct{} // handlers wait for it; nil for none
}

// begin starts a program and plays the server up to its subscription.
func (l *lives) begin(kept bool) *peer {
	l.t.Helper()
	l.dial = newServers(l.t, mqtt.V5)
	l.c = queued(l.t, l.dial.dial, "q", on(l.fs))
	subscribed := result(func() error {
		_, err := l.c.Subscribe(l.t.Context(), "n", func(d *Delivery) {
			l.got <- string(d.Payload)
			if l.gate != nil {
				<-l.gate
			}
		}, ExactlyOnce)
		return err
	})
	p, _ := l.dial.accept(mqtt.Connack{SessionPresent: kept})
	p.suback(p.subscribe().PacketID, mqtt.GrantedQoS2)
	if err := <-subscribed; err != nil {
		l.t.Fatal(err)
	}
	return p
}

// end cuts the power.
func (l *lives) end(p *peer) {
	l.t.Helper()
	l.dial.setRefuse(errors.New("no power"))
	_ = p.nc.Close()
	l.fs = l.fs.Crash(rand.Uint64())
	closeNow(l.t, l.c)
}

func (l *lives) expect(payload string) {
	l.t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	select {
	case got := <-l.got:
		if got != payload {
			l.t.Fatalf("got %q, want %q", got, payload)
		}
	case <-limit.C:
		l.t.Fatalf("%q does not come", payload)
	}
}

func (l *lives) nothingElse() {
	l.t.Helper()
	select {
	case got := <-l.got:
		l.t.Errorf("got %q", got)
	default:
	}
}

// told is what a receiver has told the server of, as seen on the wire: the numbers of the messages for which it has written PUBREC.
type told struct {
	mu      sync.Mutex
	number  map[uint16]uint64 // by Packet Identifier
	numbers map[uint64]bool
}

func newTold() *told { return &told{number: make(map[uint16]uint64), numbers: make(map[uint64]bool)} }

// has reports whether the server was told of a message.
func (o *told) has(n uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.numbers[n]
}

// count returns of how many.
func (o *told) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.numbers)
}

// observe looks at a packet.
func (o *told) observe(f mqtt.Frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var p mqtt.Publish
	var a mqtt.Ack
	switch {
	case f.Type == mqtt.PUBLISH && p.Parse(f, mqtt.V5) == nil && len(p.Payload) == 8:
		o.number[p.PacketID] = binary.BigEndian.Uint64(p.Payload)
	case f.Type == mqtt.PUBREC && a.Parse(f, mqtt.V5) == nil:
		o.numbers[o.number[a.PacketID]] = true
	}
}

// ear takes the packets out of one direction of a stream.
type ear struct {
	told *told
	rest []byte
}

func (e *ear) hear(b []byte) {
	e.rest = append(e.rest, b...)
	for {
		f, size, err := mqtt.ParseFrame(e.rest, mqtt.V5, mqtt.MaxPacket)
		if err != nil || size == 0 || size > len(e.rest) {
			return
		}
		e.told.observe(f)
		e.rest = e.rest[size:]
	}
}

// lastWords is a stream of a receiver of which the server hears only the first bytes: what is written later is on its way when the power
// fails.
type lastWords struct {
	net.Conn
	in, out ear

	mu     sync.Mutex
	heard  int // bytes that the server hears
	closed bool
}

func (c *lastWords) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.hear(b[:n])
	return n, err
}

func (c *lastWords) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.out.hear(b)
	n := min(c.heard, len(b))
	c.heard -= n
	if _, err := c.Conn.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *lastWords) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.Conn.Close()
}

// TestQueuePowerLossOfReceiver: the power of a receiver fails at random moments, with answers that the server has not heard. No message is
// lost, they come in order, and none comes twice of which the receiver had told the server.
func TestQueuePowerLossOfReceiver(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, 0))
	dial, wire, fs := startBroker(t, broker.Config{}), newTold(), vfs.NewMem()
	pub := connectTo(t, dial, mqtt.V5)
	book := &onceBook{wire: wire, seen: make(map[uint64]bool), came: make(chan struct{}, 1)}
	next := uint64(1)
	closeNow(t, receiveWith(t, dial, fs, book, time.Minute)) // nothing is kept for who never subscribed
	for range 300 {
		heard := 100 + r.IntN(1<<(4+r.IntN(8)))
		p := &power{dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			nc, err := dial(ctx, network, address)
			return &lastWords{Conn: nc, in: ear{told: wire}, out: ear{told: wire}, heard: heard}, err
		}}
		c := receiveWith(t, p.connect, fs, book, time.Millisecond) // the server may hear nothing of it
		for range r.IntN(30) {
			if err := pub.Publish(t.Context(), "n", binary.BigEndian.AppendUint64(nil, next), ExactlyOnce); err != nil {
				t.Fatal(err)
			}
			next++
		}
		book.awaitSome(t, next, r.IntN(10))
		p.cut()
		fs = fs.Crash(r.Uint64())
		closeNow(t, c)
	}
	c := receiveWith(t, dial, fs, book, time.Minute)
	for patience := time.Now().Add(time.Minute); !book.complete(next) && time.Now().Before(patience); {
		book.awaitSome(t, next, 1)
	}
	if !book.complete(next) {
		t.Errorf("%d of %d messages have come", len(book.seen), next-1)
	}
	closeNow(t, c)
	book.judge(t)
	t.Logf("%d messages, %d told, %d came again", next-1, wire.count(), book.again)
}

// receiveWith starts a receiver that notes what comes. It waits for its subscription, but not for longer than patience.
func receiveWith(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), fs *vfs.Mem, book *onceBook, patience time.Duration) *Client {
	t.Helper()
	c := queued(t, dial, "q", on(fs), WithClientID("sub"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := c.addSubscription(interest{Subscription: mqtt.Subscription{Filter: "n", QoS: mqtt.ExactlyOnce}}, book.handle)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
	}
	return c
}

// onceBook is what a receiver has handled, in all its lives.
type onceBook struct {
	wire *told

	mu    sync.Mutex
	seen  map[uint64]bool
	last  uint64
	again int // messages that came again because the server had not been told
	bad   []string
	came  chan struct{}
}

func (b *onceBook) handle(d *Delivery) { b.note(binary.BigEndian.Uint64(d.Payload), b.wire.has) }

// note takes a number. was reports whether the server had been told of it.
func (b *onceBook) note(n uint64, was func(uint64) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.came <- struct{}{}:
	default:
	}
	switch {
	case was(n):
		b.bad = append(b.bad, fmt.Sprintf("%d came after the server was told of it", n))
	case b.seen[n]:
		b.again++
	case n < b.last:
		b.bad = append(b.bad, fmt.Sprintf("%d came after %d", n, b.last))
	}
	b.seen[n] = true
	b.last = max(b.last, n)
}

// awaitSome waits for as many messages, if as many are to come.
func (b *onceBook) awaitSome(t *testing.T, next uint64, some int) {
	t.Helper()
	limit := time.NewTimer(20 * time.Millisecond)
	defer limit.Stop()
	for range some {
		if b.complete(next) {
			return
		}
		select {
		case <-b.came:
		case <-limit.C:
			return // the server may have been told nothing
		}
	}
}

func (b *onceBook) complete(next uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return uint64(len(b.seen)) == next-1
}

func (b *onceBook) judge(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, bad := range b.bad[:min(len(b.bad), 5)] {
		t.Error(bad)
	}
}

// receiveForEver is the program of TestQueueKillReceiver. It prints each number before the message is handled.
func receiveForEver(url string) {
	c, err := Dial(context.Background(), url, WithClientID("child"), WithSession(time.Hour), WithQueue(os.Getenv(childDir)))
	if err == nil {
		_, err = c.Subscribe(context.Background(), "n", func(d *Delivery) {
			fmt.Println(binary.BigEndian.Uint64(d.Payload))
		}, ExactlyOnce)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone
	os.Exit(0)
}

// TestQueueKillReceiver: a program that receives is killed at random moments, many between its PUBREC and the server's PUBREL. No message is
// lost, they come in order, and none comes twice of which it had told the server.
func TestQueueKillReceiver(t *testing.T) {
	url, address := listeningBroker(t)
	wire := newTold()
	dir := filepath.Join(t.TempDir(), "queue")
	pub, err := Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	book := &onceBook{wire: wire, seen: make(map[uint64]bool), came: make(chan struct{}, 1)}
	first, err := Dial(t.Context(), url, WithClientID("child"), WithSession(time.Hour)) // messages wait in its session
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Subscribe(t.Context(), "n", nil, ExactlyOnce); err != nil {
		t.Fatal(err)
	}
	closeNow(t, first)
	next := uint64(1)
	for range 15 {
		through := newWire(t, address, wire, 150+rand.IntN(2000))
		for range 50 + rand.IntN(100) {
			if err := pub.Publish(t.Context(), "n", binary.BigEndian.AppendUint64(nil, next), ExactlyOnce); err != nil {
				t.Fatal(err)
			}
			next++
		}
		receiveAndDie(t, through, dir, book, rand.IntN(50))
		through.close()
	}
	through := newWire(t, address, wire, 1<<30)
	for !book.complete(next) && !t.Failed() {
		receiveAndDie(t, through, dir, book, int(next)-2-len(book.seen))
	}
	through.close()
	book.judge(t)
	closeNow(t, pub)
	t.Logf("%d messages, %d told, %d came again", next-1, wire.count(), book.again)
}

// receiveAndDie runs a program until it has printed so many numbers, or the server hears nothing of it any more, and kills it.
func receiveAndDie(t *testing.T, through *wire, dir string, book *onceBook, count int) {
	t.Helper()
	before := through.told.snapshot()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childURL+"=mqtt://"+through.ln.Addr().String(), childRole+"=receive", childDir+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { _ = cmd.Process.Kill() }
	through.whenDeaf(kill)
	limit := time.AfterFunc(time.Minute, kill)
	defer limit.Stop()
	printed := make(map[uint64]bool)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Errorf("child says %q", lines.Text())
			break
		}
		book.note(n, func(n uint64) bool { return before[n] || printed[n] })
		printed[n] = true
		if len(printed) == count+1 {
			kill()
		}
	}
	kill()
	_ = cmd.Wait()
}

func (o *told) snapshot() map[uint64]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[uint64]bool, len(o.numbers))
	for n := range o.numbers {
		all[n] = true
	}
	return all
}

// wire is a proxy between a program that will be killed and the server, which hears only so many bytes of it.
type wire struct {
	ln    net.Listener
	told  *told
	group sync.WaitGroup

	mu     sync.Mutex
	heard  int
	deaf   func() // called when no more is heard
	active map[net.Conn]bool
}

func newWire(t *testing.T, server string, told *told, heard int) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{ln: ln, told: told, heard: heard, active: make(map[net.Conn]bool)}
	w.group.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			w.group.Go(func() { w.serve(nc, server) })
		}
	})
	return w
}

func (w *wire) serve(near net.Conn, server string) {
	far, err := net.Dial("tcp", server)
	if err != nil {
		_ = near.Close()
		return
	}
	w.mu.Lock()
	w.active[near], w.active[far] = true, true
	w.mu.Unlock()
	in, out := ear{told: w.told}, ear{told: w.told}
	w.group.Go(func() {
		defer near.Close()
		pass(far, near, func(b []byte) []byte {
			in.hear(b)
			return b
		})
	})
	defer far.Close()
	pass(near, far, func(b []byte) []byte {
		out.hear(b)
		return b[:w.hear(len(b))]
	})
}

// hear returns how many of n bytes the server hears.
func (w *wire) hear(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > w.heard && w.deaf != nil {
		w.deaf()
		w.deaf = nil
	}
	n = min(n, w.heard)
	w.heard -= n
	return n
}

func (w *wire) whenDeaf(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deaf = f
}

// pass copies a direction, or what is left of it.
func pass(from, to net.Conn, what func([]byte) []byte) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if n > 0 {
			_, _ = to.Write(what(b[:n]))
		}
		if err != nil {
			return
		}
	}
}

func (w *wire) close() {
	_ = w.ln.Close()
	w.mu.Lock()
	for nc := range w.active {
		_ = nc.Close()
	}
	w.mu.Unlock()
	w.group.Wait()
}

// listeningBroker returns where a broker of this process listens.
func listeningBroker(t *testing.T) (url, address string) {
	t.Helper()
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = b.Serve(context.Background(), ln) })
	t.Cleanup(func() {
		_ = b.Shutdown(context.Background())
		served.Wait()
	})
	return "mqtt://" + ln.Addr().String(), ln.Addr().String()
}
