package session

import (
	"maps"
	"slices"

	"github.com/magpiemq/magpie/mqtt"
)

// Inbound is what a receiver of messages remembers: which handshakes of QoS 1 and 2 are open. The zero value is ready.
// It belongs to the session and outlives a connection; [Inbound.Connected] starts each one.
//
// Only what came on this connection counts against the Receive Maximum, since the sender starts each connection with
// its whole quota (§4.9). Else a client that has lost its own state, and so never releases what it sent before, could
// after some reconnections send nothing any more.
type Inbound struct {
	max      int             // Receive Maximum given to the peer
	pending  int             // handshakes whose PUBLISH came on this connection: what counts against max
	older    int             // handshakes of QoS 2 whose PUBLISH came on an earlier connection only
	received map[uint16]bool // QoS 2 received and not released, method A of figure 4.3; true: counted in pending
	most     int             // that received has held since it was made
}

// Connected starts a connection on which the peer was given that Receive Maximum, from 1 to 65,535 (§3.1.2.11.3,
// §3.2.2.3.3).
func (in *Inbound) Connected(receiveMaximum int) {
	for id := range in.received {
		in.received[id] = false
	}
	in.max, in.pending, in.older = receiveMaximum, 0, len(in.received)
}

// Receive takes a PUBLISH. Fresh is false for a QoS 2 message that was received before: it is acknowledged again and
// delivered never [MQTT-4.3.3-10]. The error is ReceiveMaximumExceeded, which ends the connection, or
// PacketIdentifierInUse, which refuses the message.
func (in *Inbound) Receive(p *mqtt.Publish) (fresh bool, err error) {
	if p.QoS == mqtt.AtMostOnce {
		return true, nil
	}
	counted, open := in.received[p.PacketID]
	switch {
	case open && p.QoS == mqtt.AtLeastOnce:
		return false, mqtt.PacketIdentifierInUse // [MQTT-2.2.1-3]
	case counted:
		return false, nil
	case in.pending >= in.max:
		return false, mqtt.ReceiveMaximumExceeded // [MQTT-3.3.4-7], [MQTT-3.3.4-9]
	}
	in.pending++
	if p.QoS == mqtt.ExactlyOnce {
		in.remember(p.PacketID, open)
	}
	return !open, nil
}

// remember notes a QoS 2 message of this connection; again says that it was known from an earlier one.
func (in *Inbound) remember(id uint16, again bool) {
	if again {
		in.older--
	}
	if in.received == nil {
		in.received = make(map[uint16]bool)
	}
	in.received[id] = true
	in.most = max(in.most, len(in.received))
}

// Acknowledged ends the handshake of a QoS 1 message that came on this connection: its PUBACK is on the way.
func (in *Inbound) Acknowledged() { in.pending-- }

// Refused ends the handshake of a QoS 2 message whose PUBREC says no [MQTT-4.3.3-9].
func (in *Inbound) Refused(id uint16) { in.forget(id) }

// Release takes a PUBREL and returns the code of the PUBCOMP that answers it [MQTT-4.3.3-11].
func (in *Inbound) Release(id uint16) mqtt.ReasonCode {
	if !in.forget(id) {
		return mqtt.PacketIdentifierNotFound
	}
	return mqtt.Success
}

// forget ends a handshake of QoS 2 and reports whether there was one. A map that was large is given back when it is
// empty; a small one stays, so that a message does not cost one.
func (in *Inbound) forget(id uint16) (open bool) {
	counted, open := in.received[id]
	switch {
	case !open:
		return false
	case counted:
		in.pending--
	default:
		in.older--
	}
	delete(in.received, id)
	if len(in.received) == 0 && in.most > keepTable {
		in.received, in.most = nil, 0
	}
	return true
}

// Open returns how many handshakes are open.
func (in *Inbound) Open() int { return in.pending + in.older }

// IDs returns the identifiers of QoS 2 messages received and not released, in no order.
func (in *Inbound) IDs() []uint16 { return slices.Collect(maps.Keys(in.received)) }

// Restore makes the handshakes of those identifiers open, as they were before a restart.
func (in *Inbound) Restore(ids []uint16) {
	for _, id := range ids {
		if _, open := in.received[id]; !open {
			if in.received == nil {
				in.received = make(map[uint16]bool)
			}
			in.received[id] = false
			in.older++
			in.most = max(in.most, len(in.received))
		}
	}
}
