// Package mqtt turns bytes into the control packets of MQTT 3.1, 3.1.1 and 5.0 and back.
//
// It knows the wire format: framing, all fifteen packet types, properties, reason codes, and the rules that one
// packet can break by itself. It refuses to know connections, sessions, topics and time: whether a packet is allowed
// now, and what follows from it, is decided above.
//
// A packet is read in two steps. [ParseFrame] finds the first whole packet in a buffer and refuses one that is too
// large as soon as its fixed header is there. The Parse method of the packet's type then reads the body:
//
//	f, size, err := mqtt.ParseFrame(buf, mqtt.V5, 1<<20)
//	if err == nil && size <= len(buf) && f.Type == mqtt.PUBLISH {
//		var p mqtt.Publish
//		err = p.Parse(f, mqtt.V5)
//	}
//
// Slices in a parsed packet borrow from the buffer and are good until it is used again; strings are copies.
// Whoever keeps a [Publish] makes a [Message] of it, the one copy. Encoders append to a slice and never fail:
// what they are given must be valid (strings of at most 65,535 bytes).
//
// Errors of parsing are, or wrap, a [ReasonCode]: [MalformedPacket] when the bytes break the format,
// [ProtocolError] when the format holds but the content is forbidden (§4.13). Rules are cited as in the
// specification; bare numbers are MQTT 5.0, those of 3.1.1 carry their version.
package mqtt
