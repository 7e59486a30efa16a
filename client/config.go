package client

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/topic"
	"github.com/magpiemq/magpie/transport"
)

// NeverExpires is the Session Expiry of a session that the server keeps until a client ends it.
const NeverExpires = session.Never

const (
	defaultKeepAlive   = 60 * time.Second
	defaultTimeout     = 30 * time.Second
	defaultMaxPacket   = 16 << 20
	defaultInboxBytes  = 16 << 20
	defaultHandshakes  = 128
	defaultInflightV3  = 20
	mostHandshakes     = 1 << 15 // leaves Packet Identifiers for SUBSCRIBE
	mostReceiveMaximum = 65_535
)

// Config says who connects and how. The zero value works: MQTT 5.0, a Client Identifier of the server's choice, no user.
type Config struct {
	Version  mqtt.Version // zero means 5.0
	ClientID string       // empty lets the server choose; MQTT 3.1, which cannot, gets a random one
	Username string       // empty means the one in the URL; if there is none either, no user name is sent
	Password []byte       // nil means the one in the URL, or none
	Will     *mqtt.Will   // what the server publishes if this connection ends abnormally; nil for nothing

	// KeepAlive is 1 s to 65,535 s, rounded up to seconds. Zero means 60 s, a negative one switches it off. A server of MQTT 5.0
	// may choose another.
	KeepAlive time.Duration

	// Session is continued on this connection if the server has its half of it, and starts anew if it has not. nil means one
	// that ends with the connection, and sets Clean Start.
	Session *Session
	// CleanStart starts the Session anew in any case. MQTT 3 calls it Clean Session and then also ends it with the connection.
	CleanStart bool
	// SessionExpiry is how long the server keeps its half after the end, rounded up to seconds, or NeverExpires. MQTT 3 keeps it
	// for ever, unless CleanStart is set.
	SessionExpiry time.Duration

	// ReceiveMaximum is how many messages of QoS 1 and 2 the server may send before the handler has returned, 1 to 65,535. Zero
	// means 128. MQTT 3 has no limit.
	ReceiveMaximum int
	// MaxInflight is how many messages of QoS 1 and 2 are sent before the server has answered, 1 to 32,768. Zero means 128, and 20
	// with MQTT 3, where a server cannot say how many it takes, and some lose what comes beyond. One of MQTT 5.0 may allow fewer.
	MaxInflight int

	MaxPacketSize     int             // bytes of the largest packet that is taken; zero means 16 MiB
	TopicAliasMaximum uint16          // Topic Aliases that the server may give; zero means none
	InboxBytes        int             // messages that wait for the handler; zero means 16 MiB
	Props             mqtt.Properties // further properties of CONNECT (MQTT 5.0); they win over the fields above
	Exchange          Exchange        // enhanced authentication (§4.12, MQTT 5.0); nil for none

	// Handler is given each message that arrives, one at a time; nil drops them. What it is given is its own to keep, not to
	// change. See the package's documentation for what it may do.
	Handler func(*Delivery)

	Timeout   time.Duration        // from the first step to CONNACK, besides the context; zero means 30 s
	Transport transport.DialConfig // TLS, proxy, WebSocket header; for Dial only
}

// withDefaults checks c and returns it with every zero replaced.
func (c Config) withDefaults() (Config, error) {
	if c.Version == 0 {
		c.Version = mqtt.V5
	}
	if c.Version < mqtt.V31 || c.Version > mqtt.V5 {
		return c, fmt.Errorf("no such version of MQTT: %v", c.Version)
	}
	set := func(v *int, byDefault int) {
		if *v == 0 {
			*v = byDefault
		}
	}
	set(&c.ReceiveMaximum, defaultHandshakes)
	if c.Version != mqtt.V5 {
		set(&c.MaxInflight, defaultInflightV3)
	}
	set(&c.MaxInflight, defaultHandshakes)
	set(&c.MaxPacketSize, defaultMaxPacket)
	set(&c.InboxBytes, defaultInboxBytes)
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = defaultKeepAlive
	}
	if c.Session == nil {
		c.Session, c.CleanStart = new(Session), true
	}
	if c.ClientID == "" && c.Version == mqtt.V31 {
		c.ClientID = "magpie-" + rand.Text()[:16] // 1 to 23 characters, says MQTT 3.1
	}
	return c, c.validate()
}

func (c *Config) validate() error {
	if _, err := mqtt.ParseProperties(c.Props, mqtt.CONNECT); err != nil {
		return fmt.Errorf("properties of CONNECT: %w", err)
	}
	if c.Exchange != nil && c.Props.String(mqtt.AuthenticationMethod) != "" {
		return errors.New("properties of CONNECT and Exchange both name an authentication method")
	}
	if len(c.Props) > 0 && c.Version != mqtt.V5 {
		return fmt.Errorf("properties need MQTT 5.0, not %v", c.Version)
	}
	for _, l := range []struct {
		what        string
		value, most int
	}{
		{"receive maximum", c.ReceiveMaximum, mostReceiveMaximum},
		{"messages in flight", c.MaxInflight, mostHandshakes},
		{"packet size", c.MaxPacketSize, mqtt.MaxPacket},
		{"inbox", c.InboxBytes, math.MaxInt / 8},
	} {
		if l.value < 1 || l.value > l.most {
			return fmt.Errorf("%s of %d: must be 1 to %d", l.what, l.value, l.most)
		}
	}
	if c.KeepAlive > math.MaxUint16*time.Second {
		return fmt.Errorf("keep alive of %v: must be at most 65535 s", c.KeepAlive)
	}
	if c.SessionExpiry < 0 || c.Timeout < 0 {
		return errors.New("session expiry and timeout must not be negative")
	}
	return c.validateLogin()
}

// validateLogin checks what becomes strings of CONNECT.
func (c *Config) validateLogin() error {
	for what, s := range map[string]string{"client id": c.ClientID, "user name": c.Username} {
		if err := checkText(s); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if len(c.Password) > math.MaxUint16 {
		return errors.New("password is longer than 65535 bytes")
	}
	if c.ClientID == "" && !c.CleanStart && c.Version != mqtt.V5 {
		return errors.New("a session that outlives its connection needs a client id") // [v3.1.1 MQTT-3.1.3-7]
	}
	if c.Exchange != nil && c.Version != mqtt.V5 {
		return fmt.Errorf("enhanced authentication needs MQTT 5.0, not %v", c.Version)
	}
	if c.Username == "" && c.Password != nil && c.Version != mqtt.V5 {
		return fmt.Errorf("a password needs a user name in MQTT %v", c.Version) // [v3.1.1 MQTT-3.1.2-22]
	}
	return c.validateWill()
}

func (c *Config) validateWill() error {
	w := c.Will
	if w == nil {
		return nil
	}
	if err := topic.ValidateName(w.Topic, topic.Limits{}); err != nil {
		return fmt.Errorf("will: %w", err)
	}
	switch {
	case len(w.Payload) > math.MaxUint16:
		return errors.New("will: payload is longer than 65535 bytes")
	case w.QoS > mqtt.ExactlyOnce:
		return fmt.Errorf("will: no such QoS: %d", w.QoS)
	case len(w.Props) > 0 && c.Version != mqtt.V5:
		return fmt.Errorf("will: properties need MQTT 5.0, not %v", c.Version)
	}
	return nil
}

var errNoText = errors.New("is longer than 65535 bytes, or not UTF-8 without U+0000")

// checkText holds the rules of a UTF-8 Encoded String (§1.5.4).
func checkText(s string) error {
	if len(s) > math.MaxUint16 || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return errNoText
	}
	return nil
}

// connect builds the CONNECT. Config was validated.
func (c *Config) connect() (mqtt.Connect, error) {
	p := mqtt.Connect{
		Version: c.Version, CleanStart: c.CleanStart, KeepAlive: uint16(seconds(c.KeepAlive)), ClientID: c.ClientID, Will: c.Will,
		HasUsername: c.Username != "", Username: c.Username, HasPassword: c.Password != nil, Password: c.Password,
	}
	if c.Version != mqtt.V5 {
		return p, nil
	}
	p.Props = c.connectProps()
	if c.Exchange == nil {
		return p, nil
	}
	data, err := c.Exchange.Start()
	if err != nil {
		return p, fmt.Errorf("enhanced authentication: %w", err)
	}
	p.Props = p.Props.WithString(mqtt.AuthenticationMethod, c.Exchange.Method())
	if len(data) > 0 {
		p.Props = p.Props.WithString(mqtt.AuthenticationData, string(data))
	}
	return p, nil
}

// connectProps adds the fields that are properties to those that the user gave.
func (c *Config) connectProps() mqtt.Properties {
	p := c.Props.Without() // a copy
	add := func(id mqtt.Property, v, byDefault uint32) {
		if _, given := p.Int(id); !given && v != byDefault {
			p = p.WithInt(id, v)
		}
	}
	add(mqtt.SessionExpiryInterval, seconds(c.SessionExpiry), 0)
	add(mqtt.ReceiveMaximum, uint32(c.ReceiveMaximum), mostReceiveMaximum)
	add(mqtt.MaximumPacketSize, uint32(c.MaxPacketSize), mqtt.MaxPacket)
	add(mqtt.TopicAliasMaximum, uint32(c.TopicAliasMaximum), 0)
	return p
}

// seconds rounds up; what is longer than 2^32-2 s is for ever (§3.1.2.11.2), what is negative is none.
func seconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((d-1)/time.Second+1, math.MaxUint32))
}
