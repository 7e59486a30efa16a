package torture

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// patience bounds every wait for a broker that lives; none should come near it, on a slow machine with much else to do either.
const patience = 2 * time.Minute

// errStuck is the error of waiting longer than that.
var errStuck = errors.New("the broker lives and says nothing")

// wire is one connection, seen from the client. One goroutine uses it.
type wire struct {
	nc   net.Conn
	v    mqtt.Version
	life int64  // of the broker, in which it began
	in   []byte // read and not parsed
	out  []byte // to be written at the next flush
	err  error  // of writing
}

// flush writes what was appended to out. An error shows at the next read: the packets that came before are still good.
func (w *wire) flush() {
	if len(w.out) == 0 || w.err != nil {
		return
	}
	_ = w.nc.SetWriteDeadline(time.Now().Add(patience))
	_, w.err = w.nc.Write(w.out)
	w.out = w.out[:0]
}

// ack appends one step of a handshake.
func (w *wire) ack(t mqtt.PacketType, id uint16) {
	a := mqtt.Ack{Type: t, PacketID: id}
	w.out = a.Append(w.out, w.v)
}

// buffered reports whether a packet can be had without reading.
func (w *wire) buffered() bool {
	_, size, err := mqtt.ParseFrame(w.in, w.v, mqtt.MaxPacket)
	return err != nil || size > 0 && size <= len(w.in)
}

// next reads one packet. What it returns owns its memory.
func (w *wire) next() (any, error) {
	for !w.buffered() {
		if err := w.fill(); err != nil {
			return nil, err
		}
	}
	f, size, err := mqtt.ParseFrame(w.in, w.v, mqtt.MaxPacket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNonsense, err)
	}
	f.Body = append([]byte(nil), f.Body...)
	w.in = w.in[size:]
	p, err := parse(f, w.v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNonsense, err)
	}
	return p, nil
}

// errNonsense is what the broker must never send.
var errNonsense = errors.New("the broker sent what no server may send")

func (w *wire) fill() error {
	_ = w.nc.SetReadDeadline(time.Now().Add(patience))
	chunk := make([]byte, 32<<10)
	n, err := w.nc.Read(chunk)
	w.in = append(w.in, chunk[:n]...)
	switch {
	case n > 0:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errStuck
	}
	return err
}

// pong is what a PINGRESP is read as.
type pong struct{}

// parse reads the packets that a server sends to these clients.
func parse(f mqtt.Frame, v mqtt.Version) (any, error) {
	switch f.Type {
	case mqtt.CONNACK:
		var p mqtt.Connack
		err := p.Parse(f, v)
		return p, err
	case mqtt.PUBLISH:
		var p mqtt.Publish
		err := p.Parse(f, v)
		return p, err
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		var p mqtt.Ack
		err := p.Parse(f, v)
		return p, err
	case mqtt.SUBACK:
		var p mqtt.Suback
		err := p.Parse(f, v)
		return p, err
	case mqtt.UNSUBACK:
		var p mqtt.Unsuback
		err := p.Parse(f, v)
		return p, err
	case mqtt.DISCONNECT:
		var p mqtt.Disconnect
		err := p.Parse(f, v)
		return p, err
	case mqtt.PINGRESP:
		return pong{}, mqtt.ParseEmpty(f)
	}
	return nil, fmt.Errorf("%s from a server", f.Type)
}

// leave says DISCONNECT and waits for the end: whoever closes before may take the DISCONNECT back.
func (w *wire) leave(code mqtt.ReasonCode) error {
	d := mqtt.Disconnect{Code: code}
	w.out = d.Append(w.out, w.v)
	w.flush()
	return w.awaitEnd()
}

// awaitEnd reads until the broker has closed. The error is that it does not.
func (w *wire) awaitEnd() error {
	err := w.err
	for err == nil {
		_, err = w.next()
	}
	_ = w.nc.Close()
	if errors.Is(err, errStuck) {
		return err
	}
	return nil
}
