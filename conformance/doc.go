// Package conformance holds what MQTT demands of a server, as scripts that a
// reader who knows MQTT but not Go can check, and runs them against a broker
// over TCP and over WebSocket.
//
// It knows the wire format on its own: it shares no code with package mqtt, so
// that a mistake made there is not made here a second time. It does not know
// how our broker works; any broker that listens can be tried.
//
// # Scripts
//
// The files lie in testdata/v5, v311 and v31 (one protocol version each) and in
// testdata/all (every case is run in all three). Each file is one section of
// the specification. A file is a list of cases, a case a title and its steps:
//
//	# QoS 3 is malformed [MQTT-3.3.1-4]
//	connect
//	> 36 { s"a/b" 0001 00 }
//	< DISCONNECT 81
//	< EOF
//
// Lines that start with # are the title; it names the statements the case
// covers, a bare number meaning the version of the directory, 5.0 in
// testdata/all, and [v3.1.1 MQTT-…] the older one. Lines that start with // are
// remarks.
//
// # Connections
//
// A step may begin with the name of a connection; without one it concerns the
// unnamed connection.
//
//	connect                    open, CONNECT, expect an accepting CONNACK
//	sub connect clean=0        the same as "sub", with fields of the CONNECT
//	sub v311 connect           in another protocol version
//	open                       open only
//	sub close                  drop the network connection, without DISCONNECT
//	split                      from now on one byte per segment or frame
//	wait 1.2s                  let time pass, for rules about seconds
//	only ws                    this case concerns one transport
//	only v5 v311               this case concerns these versions
//	with max-qos=1             this case needs a broker configured so
//	alone                      this case needs a broker of its own
//	open offer="foo, mqtt"     WebSocket: the subprotocols offered
//	protocol "mqtt"            WebSocket: the subprotocol the server selected
//	refused                    WebSocket: the server refused the upgrade
//
// A step that begins with v5: or v31|v311: is done in those versions only;
// properties are left out before version 5, and Session Present before 3.1.1.
//
// Client Identifiers default to $id, followed by the name of the connection.
// $id is six characters, new for each case, and keeps cases apart; a word $x is
// bound by the first expectation that has it, and stands for that value later.
//
// # Sending
//
// After > stands a packet by name or a packet as bytes.
//
//	> PUBLISH topic="$id/a" payload=on qos=1 id=7 user:k=v
//	sub> SUBSCRIBE id=1 filter="$id/#" qos=2 nl=1 filter=b
//	> SUBACK id=1 00 87        two hexadecimal digits alone are Reason Codes
//	> 82 { 0001 00 s"a" 00 }   bytes
//	> text "hello"             a WebSocket text frame
//
// Bytes: pairs of hexadecimal digits; 'abc' or "abc" is text; s"abc" is text
// after its two byte length; { … } is what is inside after its length as a
// Variable Byte Integer, which serves for Remaining Length and Property Length;
// "x"*100 and 00*100 repeat.
//
// Fields have the names of the specification in short: topic payload qos retain
// dup id; clean keepalive user pass will will-payload will-qos will-retain;
// filter qos nl rap rh; sp. Properties: format expiry content-type
// response-topic correlation subid session-expiry assigned-id server-keepalive
// auth-method auth-data request-problem will-delay request-response
// response-info server-reference reason receive-max alias-max alias max-qos
// retain-available user:NAME max-packet wildcard-available subid-available
// shared-available; those of a Will have will- in front.
//
// # Expecting
//
//	< PUBLISH topic="$id/a" payload=on qos=1 id=$p
//	sub< SUBACK id=1 00
//	< CONNACK 00 sp=1 receive-max=1..65535 !assigned-id
//	< 20 .. 00 00 *            bytes; .. is any byte, * any rest (not beside { })
//	< maybe DISCONNECT 82      this, or the end at once
//	< EOF                      the server closes, having sent nothing more
//	< silence                  proven in order: PINGREQ, and PINGRESP is next
//	a|b< PUBLISH topic=t       on either; "winner" and "loser" are their names then
//	<? PUBLISH topic=t         neighbouring lines with <? come in any order
//
// Of a PUBLISH everything is compared: what is not mentioned must be absent or
// zero, the Packet Identifier of QoS 1 and 2 excepted. Of other packets the
// Reason Codes and Session Present are compared (not mentioned means zero), and
// what is mentioned. A value may be a range of numbers, a..b, alternatives x|y,
// or * for anything; !name demands absence.
//
// Every packet from the server is decoded strictly and held against the rules
// that need no script (watch.go). When a case ends, every connection that is
// still open must be silent.
package conformance
