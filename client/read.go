package client

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
)

// readAll is the reader: it takes packets until the connection is over, and then what the server still sends.
func (c *Conn) readAll() {
	for {
		err := c.readOne()
		if err == nil {
			continue
		}
		var code mqtt.ReasonCode
		switch answer := (*ServerError)(nil); {
		case errors.As(err, &answer) && answer.Packet == mqtt.DISCONNECT:
			c.end(err, false, nil)
		case errors.As(err, &code) && c.version == mqtt.V5:
			c.end(err, true, &mqtt.Disconnect{Code: code}) // MQTT 3 has no words for it
		case errors.As(err, &code):
			c.end(err, false, nil)
		case errors.Is(err, io.EOF):
			c.end(fmt.Errorf("server closed the connection: %w", io.ErrUnexpectedEOF), false, nil)
		default:
			c.end(fmt.Errorf("reading: %w", err), false, nil)
		}
		break
	}
	c.linger()
}

// linger reads on until the server has closed, so that closing with bytes unread does not make the system reset the connection
// before the server has read our last words. The writer limits the time.
func (c *Conn) linger() {
	var waste [1024]byte
	for {
		if _, err := c.nc.Read(waste[:]); err != nil {
			return
		}
	}
}

// readOne takes one packet.
func (c *Conn) readOne() error {
	if err := c.awaitHandler(); err != nil {
		return err
	}
	f, err := c.in.next(c.version, c.receive.maxPacket)
	if err != nil {
		return err
	}
	if f.Type == mqtt.AUTH {
		return c.onAuth(f)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return c.process(f)
}

func (c *Conn) readStream(p []byte) (int, error) {
	n, err := c.nc.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastRead = time.Now()
	return n, err
}

// awaitHandler waits while the handler is too far behind and nobody waits for an answer, and while the server takes no answers.
func (c *Conn) awaitHandler() error {
	s := c.cfg.Session
	c.mu.Lock()
	defer c.mu.Unlock()
	behind := func() bool {
		expecting := s.waiting+s.awaited+len(c.requests) > 0 || c.reauth != nil
		return s.inboxBytes > c.cfg.InboxBytes && !expecting || c.ackBytes > outLimit
	}
	for c.err == nil && behind() {
		c.paused = true
		s.room.Wait()
	}
	if c.paused {
		c.paused, c.lastRead = false, time.Now()
	}
	return c.err
}

// process takes one packet, holding mu.
func (c *Conn) process(f mqtt.Frame) error {
	switch f.Type {
	case mqtt.PUBLISH:
		return c.onPublish(f)
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		return c.onAck(f)
	case mqtt.SUBACK:
		return c.onSuback(f)
	case mqtt.UNSUBACK:
		return c.onUnsuback(f)
	case mqtt.PINGRESP:
		return mqtt.ParseEmpty(f)
	case mqtt.DISCONNECT:
		return c.onDisconnect(f)
	}
	return violation(mqtt.ProtocolError, "%v is not for clients", f.Type)
}

func (c *Conn) onDisconnect(f mqtt.Frame) error {
	if c.version != mqtt.V5 {
		return violation(mqtt.ProtocolError, "DISCONNECT before MQTT 5.0")
	}
	var d mqtt.Disconnect
	if err := d.Parse(f, c.version); err != nil {
		return fmt.Errorf("DISCONNECT: %w", err)
	}
	return serverError(mqtt.DISCONNECT, d.Code, d.Props)
}

// onAck takes a step of a handshake of QoS 1 or 2.
func (c *Conn) onAck(f mqtt.Frame) error {
	var a mqtt.Ack
	if err := a.Parse(f, c.version); err != nil {
		return fmt.Errorf("%v: %w", f.Type, err)
	}
	s := c.cfg.Session
	switch a.Type {
	case mqtt.PUBACK:
		d, _, err := s.out.Acknowledge(a.PacketID)
		if err != nil {
			return violation(mqtt.ProtocolError, "PUBACK for a message of QoS 2")
		}
		s.answered(d, &a)
	case mqtt.PUBREC:
		return c.onPubrec(&a)
	case mqtt.PUBREL:
		code := s.in.Release(a.PacketID)
		c.awaitDisk(s.released(a.PacketID))
		c.appendAck(mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: a.PacketID, Code: code}) // [MQTT-4.3.3-11]
	case mqtt.PUBCOMP:
		if s.out.Waits(a.PacketID) {
			return violation(mqtt.ProtocolError, "PUBCOMP before PUBREC")
		}
		s.completed(a.PacketID, mqtt.Success) // whatever it says, the server has nothing open for this identifier
	}
	c.pump()
	return nil
}

func (c *Conn) onPubrec(a *mqtt.Ack) error {
	s := c.cfg.Session
	d := session.Delivery{Position: s.out.Position(a.PacketID)}
	first := s.out.Waits(a.PacketID)
	reply, refused, err := s.out.Received(a.PacketID, a.Code)
	switch {
	case err != nil:
		return violation(mqtt.ProtocolError, "PUBREC for a message of QoS 1")
	case refused:
		s.answered(d, a)
		c.pump()
		return nil
	}
	if p := s.flying[a.PacketID]; p != nil {
		p.code = a.Code
	}
	if first && d.Position > 0 && s.keeper != nil {
		c.awaitDisk(s.keeper.received(d.Position, a.PacketID))
	}
	c.appendAck(mqtt.Ack{Type: mqtt.PUBREL, PacketID: a.PacketID, Code: reply}) // [MQTT-4.3.3-4]
	return nil
}

// completed ends a handshake of QoS 2.
func (s *Session) completed(id uint16, code mqtt.ReasonCode) {
	d := session.Delivery{Position: s.out.Position(id)}
	known, err := s.out.Complete(id)
	if err != nil {
		panic("client: a handshake that waits for PUBREC is completed")
	}
	if known {
		s.answered(d, &mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: id, Code: code})
	}
}

// answered ends a handshake with what the server says to the message. Late answers to what is not known are harmless.
func (s *Session) answered(d session.Delivery, a *mqtt.Ack) {
	p := s.flying[a.PacketID]
	if p != nil {
		delete(s.flying, a.PacketID)
		if s.conn != nil {
			s.conn.acknowledged.Add(1)
		}
	}
	if a.Code.Failed() {
		s.settled(d, p, a.Code, serverError(a.Type, a.Code, a.Props))
		return
	}
	code := a.Code
	if p != nil {
		code = max(p.code, a.Code)
	}
	s.settled(d, p, code, nil)
}
