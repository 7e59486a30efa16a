package mqtt

// Connack is the CONNACK packet (§3.2).
type Connack struct {
	SessionPresent bool
	Code           ReasonCode
	Props          Properties
}

// Parse reads the body of a CONNACK. The return codes of MQTT 3 become the reason codes that mean the same.
func (c *Connack) Parse(f Frame, v Version) error {
	*c = Connack{}
	r := reader{b: f.Body}
	flags := r.byte()
	c.SessionPresent = flags&1 != 0 && v != V31
	if flags > 1 && v != V31 { // MQTT 3.1 leaves the byte undefined
		return wrong(MalformedPacket, "reserved acknowledge flags are set") // [MQTT-3.2.2-1]
	}
	code := r.byte()
	if v == V5 {
		c.Code = ReasonCode(code)
		if !c.Code.allowedIn(CONNACK) {
			return wrong(MalformedPacket, "reason code does not belong in a CONNACK")
		}
		c.Props = r.properties(CONNACK)
		return r.end()
	}
	if int(code) >= len(connectReason) {
		return wrong(MalformedPacket, "no such return code")
	}
	c.Code = connectReason[code]
	return r.end()
}

// Append appends the CONNACK to b. For MQTT 3 a code without counterpart becomes "server unavailable".
func (c *Connack) Append(b []byte, v Version) []byte {
	present := byte(0)
	if c.SessionPresent && v != V31 {
		present = 1
	}
	if v == V5 {
		b = appendVarint(append(b, byte(CONNACK)<<4), 2+propertiesSize(c.Props))
		return appendProperties(append(b, present, byte(c.Code)), c.Props)
	}
	code, ok := connectReturn[c.Code]
	if !ok {
		code = connectReturn[ServerUnavailable]
	}
	return append(b, byte(CONNACK)<<4, 2, present, code)
}
