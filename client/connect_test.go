package client

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// limits are our own, told in each CONNECT of MQTT 5.0.
var limits = mqtt.Properties(nil).WithInt(mqtt.ReceiveMaximum, 128).WithInt(mqtt.MaximumPacketSize, 16<<20)

func TestConnectPacket(t *testing.T) {
	will := &mqtt.Will{Topic: "gone", Payload: []byte("c1"), QoS: 1, Retain: true}
	for name, tc := range map[string]struct {
		cfg  Config
		want mqtt.Connect
	}{
		"zero": {Config{}, mqtt.Connect{Version: 5, CleanStart: true, KeepAlive: 60, Props: limits}},
		"3.1.1": {
			Config{Version: mqtt.V311, ClientID: "c1", Username: "u", Password: []byte("p"), KeepAlive: 1500 * time.Millisecond, Will: will},
			mqtt.Connect{Version: 4, CleanStart: true, KeepAlive: 2, ClientID: "c1", HasUsername: true, Username: "u", HasPassword: true, Password: []byte("p"), Will: will},
		},
		"3.1 session": {
			Config{Version: mqtt.V31, ClientID: "c1", Session: new(Session), KeepAlive: -1},
			mqtt.Connect{Version: 3, ClientID: "c1"},
		},
		"5.0 session": {
			Config{ClientID: "c1", Session: new(Session), SessionExpiry: NeverExpires, ReceiveMaximum: 7, MaxPacketSize: 99, TopicAliasMaximum: 3},
			mqtt.Connect{Version: 5, KeepAlive: 60, ClientID: "c1", Props: mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 0xFFFFFFFF).
				WithInt(mqtt.ReceiveMaximum, 7).WithInt(mqtt.MaximumPacketSize, 99).WithInt(mqtt.TopicAliasMaximum, 3)},
		},
		"properties win": {
			Config{ReceiveMaximum: 7, Props: mqtt.Properties(nil).WithUser("k", "v").WithInt(mqtt.ReceiveMaximum, 9)},
			mqtt.Connect{Version: 5, CleanStart: true, KeepAlive: 60, Props: mqtt.Properties(nil).WithUser("k", "v").
				WithInt(mqtt.ReceiveMaximum, 9).WithInt(mqtt.MaximumPacketSize, 16<<20)},
		},
		"clean start of a session": {
			Config{ClientID: "c1", Session: new(Session), CleanStart: true, SessionExpiry: 1500 * time.Millisecond},
			mqtt.Connect{Version: 5, CleanStart: true, KeepAlive: 60, ClientID: "c1", Props: append(mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 2), limits...)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c, p, got := openWith(t, tc.cfg, mqtt.Connack{})
				if !reflect.DeepEqual(got, tc.want) {
					t.Errorf("got  %+v\nwant %+v", got, tc.want)
				}
				closeBoth(t, c, p)
			})
		})
	}
}

func TestConnectMQTT31ChoosesClientID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p, got := openWith(t, Config{Version: mqtt.V31}, mqtt.Connack{})
		if n := len(got.ClientID); n < 1 || n > 23 || c.ClientID() != got.ClientID {
			t.Errorf("client id %q, ClientID() %q: want the same, 1 to 23 characters", got.ClientID, c.ClientID())
		}
		closeBoth(t, c, p)
	})
}

func TestConnectTakesServersWord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, mqtt.Properties(nil).WithString(mqtt.AssignedClientIdentifier, "auto-1").WithInt(mqtt.ServerKeepAlive, 7))
		if c.ClientID() != "auto-1" {
			t.Errorf("client id %q", c.ClientID())
		}
		if c.KeepAlive() != 7*time.Second { // [MQTT-3.1.2-21]
			t.Errorf("keep alive %v", c.KeepAlive())
		}
		closeBoth(t, c, p)
	})
}

func TestConnectRefused(t *testing.T) {
	for _, v := range versions {
		for _, code := range []mqtt.ReasonCode{mqtt.UnsupportedProtocolVersion, mqtt.BadUserNameOrPassword, mqtt.NotAuthorized, mqtt.ServerUnavailable} {
			bubble(t, func(t *testing.T) {
				p, nc := newPeer(t, v)
				go func() {
					p.connect()
					p.send((&mqtt.Connack{Code: code, Props: mqtt.Properties(nil).WithString(mqtt.ReasonString, "no\x1b[2J")}).Append(nil, v))
				}()
				_, err := Connect(t.Context(), nc, Config{Version: v})
				isServerError(t, err, mqtt.CONNACK, code)
				isCode(t, err, code)
				if strings.ContainsRune(err.Error(), 0x1b) {
					t.Errorf("the server's text reaches the terminal as it is: %q", err)
				}
			})
		}
	}
}

// connectError connects to a server that answers CONNECT with these bytes and then closes.
func connectError(t *testing.T, cfg Config, answer []byte) error {
	t.Helper()
	p, nc := newPeer(t, max(cfg.Version, mqtt.V311))
	go func() {
		p.in.next(p.v, mqtt.MaxPacket)
		_, _ = p.nc.Write(answer) // the client may stop reading before the end
		_ = p.nc.Close()
	}()
	c, err := Connect(t.Context(), nc, cfg)
	if err == nil {
		_ = c.Close()
		<-c.Done()
	}
	return err
}

func TestConnackThatMustNotBe(t *testing.T) {
	for name, tc := range map[string]struct {
		answer []byte
		code   mqtt.ReasonCode
	}{
		"PUBLISH first [MQTT-3.2.0-1]":                        {[]byte{0x30, 4, 0, 1, 'a', 0}, mqtt.ProtocolError},
		"session present after clean start [MQTT-3.2.2-2]":    {[]byte{0x20, 3, 1, 0, 0}, mqtt.ProtocolError},
		"reserved flag [MQTT-3.2.2-1]":                        {[]byte{0x20, 3, 2, 0, 0}, mqtt.MalformedPacket},
		"a code that does not exist":                          {[]byte{0x20, 3, 0, 0x42, 0}, mqtt.MalformedPacket},
		"AUTH that was not asked for [MQTT-4.12.0-6]":         {(&mqtt.Auth{Code: 0x18, Props: mqtt.Properties(nil).WithString(mqtt.AuthenticationMethod, "X")}).Append(nil), mqtt.ProtocolError},
		"packet type 0":                                       {[]byte{0, 0}, mqtt.MalformedPacket},
		"a packet larger than we take":                        {[]byte{0x20, 0xFF, 0xFF, 0xFF, 0x7F}, mqtt.PacketTooLarge},
		"DISCONNECT before CONNACK [MQTT-3.14.0-1]":           {[]byte{0xE0, 0}, mqtt.ProtocolError},
		"CONNACK with another's property §2.2.2.2":            {[]byte{0x20, 6, 0, 0, 3, 0x23, 0, 1}, mqtt.MalformedPacket},
		"CONNACK with a Receive Maximum of zero §3.2.2.3.3":   {[]byte{0x20, 6, 0, 0, 3, 0x21, 0, 0}, mqtt.ProtocolError},
		"CONNACK with a Maximum QoS of two [§3.2.2.3.4]":      {[]byte{0x20, 5, 0, 0, 2, 0x24, 2}, mqtt.ProtocolError},
		"CONNACK with a Maximum Packet Size of zero (§3.2.2)": {[]byte{0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 0}, mqtt.ProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) { isCode(t, connectError(t, Config{}, tc.answer), tc.code) })
		})
	}
	t.Run("nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			if err := connectError(t, Config{}, nil); err == nil {
				t.Error("connected to a server that said nothing")
			}
		})
	})
}

func TestConnectGivesUp(t *testing.T) {
	for name, tc := range map[string]struct {
		timeout, ctx, want time.Duration
	}{
		"default": {0, time.Hour, 30 * time.Second},
		"timeout": {time.Second, time.Hour, time.Second},
		"context": {time.Minute, 3 * time.Second, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p, nc := newPeer(t, mqtt.V5)
				go p.connect()
				ctx, cancel := context.WithTimeout(t.Context(), tc.ctx)
				defer cancel()
				start := time.Now()
				_, err := Connect(ctx, nc, Config{Timeout: tc.timeout})
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != tc.want {
					t.Errorf("error %v after %v, want a deadline after %v", err, time.Since(start), tc.want)
				}
			})
		})
	}
}

func TestConfigErrors(t *testing.T) {
	long := strings.Repeat("x", 65_536)
	for name, cfg := range map[string]Config{
		"version":                    {Version: 6},
		"client id too long":         {ClientID: long},
		"client id not UTF-8":        {ClientID: "\xff"},
		"user name with NUL":         {Username: "a\x00"},
		"password too long":          {Password: []byte(long)},
		"password alone in 3.1.1":    {Version: mqtt.V311, Password: []byte("p")},
		"session without a name":     {Version: mqtt.V311, Session: new(Session)},
		"properties in 3.1.1":        {Version: mqtt.V311, Props: mqtt.Properties(nil).WithUser("a", "b")},
		"property of another packet": {Props: mqtt.Properties(nil).WithInt(mqtt.TopicAlias, 1)},
		"broken properties":          {Props: mqtt.Properties{0x11}},
		"keep alive":                 {KeepAlive: 65_536 * time.Second},
		"expiry":                     {SessionExpiry: -1},
		"receive maximum":            {ReceiveMaximum: 65_536},
		"in flight":                  {MaxInflight: 32_769},
		"packet size":                {MaxPacketSize: -1},
		"inbox":                      {InboxBytes: -1},
		"will topic":                 {Will: &mqtt.Will{Topic: "a/#"}},
		"will QoS":                   {Will: &mqtt.Will{Topic: "a", QoS: 3}},
		"will payload":               {Will: &mqtt.Will{Topic: "a", Payload: []byte(long)}},
		"will properties in 3.1.1":   {Version: mqtt.V311, Will: &mqtt.Will{Topic: "a", Props: mqtt.Properties(nil).WithInt(mqtt.WillDelayInterval, 1)}},
		"exchange in 3.1.1":          {Version: mqtt.V311, Exchange: Scram("u", "p")},
		"two methods":                {Exchange: Scram("u", "p"), Props: mqtt.Properties(nil).WithString(mqtt.AuthenticationMethod, "X")},
	} {
		t.Run(name, func(t *testing.T) {
			p, nc := newPeer(t, mqtt.V5)
			if _, err := Connect(t.Context(), nc, cfg); err == nil {
				t.Fatal("accepted")
			}
			p.eof() // the stream was ours to close
		})
	}
}

func TestDialAddressErrors(t *testing.T) {
	for _, address := range []string{"://secret", "ftp://127.0.0.1", "mqtt://"} {
		_, err := DialConn(t.Context(), address, Config{})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v", address, err)
		}
	}
}
