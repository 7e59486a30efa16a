package mqtt

// Disconnect is the DISCONNECT packet (§3.14).
type Disconnect struct {
	Code  ReasonCode // Success (normal disconnection) for MQTT 3
	Props Properties
}

// Parse reads the body of a DISCONNECT.
func (d *Disconnect) Parse(f Frame, v Version) error {
	*d = Disconnect{}
	r := reader{b: f.Body}
	if v == V5 {
		d.Code, d.Props = r.codeAndProperties(DISCONNECT)
	}
	return r.end()
}

// Append appends the DISCONNECT to b.
func (d *Disconnect) Append(b []byte, v Version) []byte {
	if v != V5 {
		return append(b, byte(DISCONNECT)<<4, 0)
	}
	return appendCodeAndProperties(b, DISCONNECT, d.Code, d.Props)
}

// Auth is the AUTH packet of MQTT 5.0 (§3.15).
type Auth struct {
	Code  ReasonCode
	Props Properties // with the Authentication Method
}

// Parse reads the body of an AUTH.
func (a *Auth) Parse(f Frame, v Version) error {
	*a = Auth{}
	if v != V5 {
		return wrong(MalformedPacket, "AUTH before MQTT 5.0") // §2.2.1 of 3.1.1: type 15 is reserved
	}
	r := reader{b: f.Body}
	a.Code, a.Props = r.codeAndProperties(AUTH)
	if err := r.end(); err != nil {
		return err
	}
	if len(f.Body) > 0 && !a.Props.has(AuthenticationMethod) { // an empty body is allowed (§3.15.2.1)
		return wrong(ProtocolError, "AUTH without an authentication method") // §3.15.2.2.2
	}
	return nil
}

// Append appends the AUTH to b.
func (a *Auth) Append(b []byte) []byte { return appendCodeAndProperties(b, AUTH, a.Code, a.Props) }

// codeAndProperties reads the body that DISCONNECT and AUTH share: both parts may be left out from the end
// (§3.14.2.1, §3.15.2.1).
func (r *reader) codeAndProperties(t PacketType) (c ReasonCode, p Properties) {
	if len(r.b) == 0 {
		return Success, nil
	}
	c = ReasonCode(r.byte())
	if !c.allowedIn(t) {
		r.fail(wrong(MalformedPacket, "reason code does not belong in this packet")) // [MQTT-3.14.2-1], [MQTT-3.15.2-1]
		return c, nil
	}
	if len(r.b) > 0 {
		p = r.properties(t)
	}
	return c, p
}

func appendCodeAndProperties(b []byte, t PacketType, c ReasonCode, p Properties) []byte {
	b = append(b, byte(t)<<4)
	switch {
	case c == Success && len(p) == 0:
		return append(b, 0)
	case len(p) == 0:
		return append(b, 1, byte(c))
	}
	b = append(appendVarint(b, 1+propertiesSize(p)), byte(c))
	return appendProperties(b, p)
}

// AppendPingreq appends a PINGREQ (§3.12) to b.
func AppendPingreq(b []byte) []byte { return append(b, byte(PINGREQ)<<4, 0) }

// AppendPingresp appends a PINGRESP (§3.13) to b.
func AppendPingresp(b []byte) []byte { return append(b, byte(PINGRESP)<<4, 0) }

// ParseEmpty checks the body of a PINGREQ or PINGRESP, which is empty.
func ParseEmpty(f Frame) error {
	if len(f.Body) > 0 {
		return wrong(MalformedPacket, "ping with a body")
	}
	return nil
}
