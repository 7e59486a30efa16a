package main

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// The clients speak MQTT 3.1.1, which all brokers do alike.
const version = mqtt.V311

// silence is how long a broker may say nothing when something is due.
const silence = 30 * time.Second

// client is one connection. It reads and writes in batches: as much as is there.
type client struct {
	nc  net.Conn
	in  []byte // read and not parsed
	buf []byte // what in is part of
	out []byte
}

// connect logs in. A client with a clean session leaves nothing behind.
func connect(address, id string, clean bool) (*client, error) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c := &client{nc: nc, buf: make([]byte, 64<<10)}
	hello := mqtt.Connect{Version: version, ClientID: id, CleanStart: clean}
	c.out = hello.Append(c.out)
	if err := c.exchange(mqtt.CONNACK); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("connect %s: %w", id, err)
	}
	return c, nil
}

// subscribe subscribes with QoS 1.
func (c *client) subscribe(filter string) error {
	s := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: filter, QoS: mqtt.AtLeastOnce}}}
	c.out = s.Append(c.out, version)
	return c.exchange(mqtt.SUBACK)
}

// exchange writes what waits and reads one packet, of that type.
func (c *client) exchange(want mqtt.PacketType) error {
	if err := c.flush(); err != nil {
		return err
	}
	for {
		f, ok, err := c.frame()
		switch {
		case err != nil:
			return err
		case ok && f.Type == want:
			return nil
		case ok:
			return fmt.Errorf("%s instead of %s", f.Type, want)
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

func (c *client) flush() error {
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err
}

// frame takes the next whole packet from what was read; ok is false when there is none.
func (c *client) frame() (f mqtt.Frame, ok bool, err error) {
	f, size, err := mqtt.ParseFrame(c.in, version, mqtt.MaxPacket)
	if err != nil || size == 0 || size > len(c.in) {
		return f, false, err
	}
	c.in = c.in[size:]
	return f, true, nil
}

// fill waits for more bytes, and reads those that are there.
func (c *client) fill() error {
	rest := copy(c.buf, c.in)
	if err := c.nc.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	n, err := c.nc.Read(c.buf[rest:])
	c.in = c.buf[:rest+n]
	if n > 0 {
		return nil
	}
	return err
}

// leave says goodbye. It may be called while a subscriber receives.
func (c *client) leave() {
	_, _ = c.nc.Write((&mqtt.Disconnect{}).Append(nil, version)) // a connection that is gone has left too
	_ = c.nc.Close()
}

// publisher publishes QoS 1 messages as fast as its window allows.
type publisher struct {
	*client
	packet []byte // with room for the identifier
	idAt   int
	sent   []time.Time // when, by place in the window
	sends  int
	acks   int
	times  histogram // from the write of a message to the read of its PUBACK
}

func newPublisher(address, id, name string, payload, window int) (*publisher, error) {
	c, err := connect(address, id, true)
	if err != nil {
		return nil, err
	}
	m := mqtt.Publish{Topic: []byte(name), QoS: mqtt.AtLeastOnce, PacketID: 1, Payload: make([]byte, payload)}
	p := &publisher{client: c, packet: m.Append(nil, version), sent: make([]time.Time, window)}
	p.idAt = len(p.packet) - payload - 2
	return p, nil
}

// publish sends until stop is set or most messages are sent, and returns when all are acknowledged.
func (p *publisher) publish(stop *atomic.Bool, most int) error {
	for most += p.sends; ; {
		for now := time.Now(); p.sends-p.acks < len(p.sent) && p.sends < most && !stop.Load(); {
			p.append(now)
		}
		if len(p.out) > 0 {
			if err := p.flush(); err != nil {
				return err
			}
		}
		if p.sends == p.acks {
			return nil
		}
		if err := p.fill(); err != nil {
			return err
		}
		if err := p.take(); err != nil {
			return err
		}
	}
}

// packetID is the Packet Identifier of the n-th message: all of them in turn.
func packetID(n int) uint16 { return uint16(n%65_535) + 1 }

func (p *publisher) append(now time.Time) {
	id := packetID(p.sends)
	at := len(p.out) + p.idAt
	p.out = append(p.out, p.packet...)
	p.out[at], p.out[at+1] = byte(id>>8), byte(id)
	p.sent[p.sends%len(p.sent)] = now
	p.sends++
}

// take takes the acknowledgements that were read. They come in the order of the messages [v3.1.1 MQTT-4.6.0-2].
func (p *publisher) take() error {
	now := time.Now()
	for {
		f, ok, err := p.frame()
		if err != nil || !ok {
			return err
		}
		var a mqtt.Ack
		if err := a.Parse(f, version); err != nil {
			return err
		}
		if id := packetID(p.acks); f.Type != mqtt.PUBACK || a.PacketID != id {
			return fmt.Errorf("%s %d instead of PUBACK %d", f.Type, a.PacketID, id)
		}
		p.times.add(now.Sub(p.sent[p.acks%len(p.sent)]))
		p.acks++
	}
}

// subscriber takes messages and acknowledges them.
type subscriber struct {
	*client
	count atomic.Int64 // messages that have come
	last  atomic.Int64 // when the last one did, on the clock of time.Since(epoch)
	err   chan error   // of the goroutine that reads
}

// epoch is the beginning of time for clocks that have to fit into a word.
var epoch = time.Now()

// take starts to take messages.
func (c *client) take() *subscriber {
	s := &subscriber{client: c, err: make(chan error, 1)}
	go func() { s.err <- s.receive() }()
	return s
}

// receive takes messages until the connection ends.
func (s *subscriber) receive() error {
	for {
		if err := s.answer(); err != nil {
			return err
		}
		if n := len(s.out) / ackSize; n > 0 {
			if err := s.flush(); err != nil {
				return err
			}
			s.last.Store(int64(time.Since(epoch)))
			s.count.Add(int64(n))
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
}

// ackSize is the size of a PUBACK in MQTT 3.
const ackSize = 4

// answer acknowledges what was read.
func (s *subscriber) answer() error {
	var p mqtt.Publish
	for {
		f, ok, err := s.frame()
		if err != nil || !ok {
			return err
		}
		if err := p.Parse(f, version); err != nil {
			return err
		}
		a := mqtt.Ack{Type: mqtt.PUBACK, PacketID: p.PacketID}
		s.out = a.Append(s.out, version)
	}
}

// await waits until so many messages have come, and returns when the last one did.
func (s *subscriber) await(count int) (time.Time, error) {
	for tick := time.Tick(time.Millisecond); s.count.Load() < int64(count); {
		select {
		case err := <-s.err:
			return time.Time{}, fmt.Errorf("the subscriber has got %d of %d messages: %w", s.count.Load(), count, err)
		case <-tick:
		}
	}
	return epoch.Add(time.Duration(s.last.Load())), nil
}
