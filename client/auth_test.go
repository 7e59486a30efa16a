package client

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// echo is a method in which the client says "first", answers x with "re:x", and expects "bye".
type echo struct{ runs int }

func (*echo) Method() string                   { return "ECHO" }
func (e *echo) Start() ([]byte, error)         { e.runs++; return []byte("first"), nil }
func (*echo) Next(data []byte) ([]byte, error) { return []byte("re:" + string(data)), nil }
func (*echo) Finish(data []byte) error {
	if string(data) != "bye" {
		return errors.New("no bye")
	}
	return nil
}

func method(name, data string) mqtt.Properties {
	p := mqtt.Properties(nil).WithString(mqtt.AuthenticationMethod, name)
	if data != "" {
		p = p.WithString(mqtt.AuthenticationData, data)
	}
	return p
}

func (p *peer) auth(code mqtt.ReasonCode, data string) {
	p.t.Helper()
	var a mqtt.Auth
	p.parsed(a.Parse(p.expect(mqtt.AUTH), p.v))
	if got, _ := a.Props.Bytes(mqtt.AuthenticationData); a.Code != code || string(got) != data || a.Props.String(mqtt.AuthenticationMethod) != "ECHO" {
		p.fail("AUTH %v %q, want %v %q", a.Code, got, code, data)
	}
}

func (p *peer) sendAuth(code mqtt.ReasonCode, data string) {
	p.t.Helper()
	p.send((&mqtt.Auth{Code: code, Props: method("ECHO", data)}).Append(nil))
}

// login plays the server of ECHO.
func (p *peer) login(final mqtt.Connack) {
	connect := p.connect()
	if data, _ := connect.Props.Bytes(mqtt.AuthenticationData); string(data) != "first" || connect.Props.String(mqtt.AuthenticationMethod) != "ECHO" {
		p.fail("CONNECT with %q", data)
	}
	p.sendAuth(mqtt.ContinueAuthentication, "a")
	p.auth(mqtt.ContinueAuthentication, "re:a")
	p.sendAuth(mqtt.ContinueAuthentication, "b")
	p.auth(mqtt.ContinueAuthentication, "re:b")
	p.send(final.Append(nil, p.v))
}

func TestExchange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, nc := newPeer(t, mqtt.V5)
		go p.login(mqtt.Connack{Props: method("ECHO", "bye")})
		c, err := Connect(t.Context(), nc, Config{Exchange: new(echo)})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			done := result(func() error { return c.Reauthenticate(t.Context()) })
			p.auth(mqtt.ReAuthenticate, "first")
			p.sendAuth(mqtt.ContinueAuthentication, "c")
			p.auth(mqtt.ContinueAuthentication, "re:c")
			p.sendAuth(mqtt.Success, "bye")
			if err := <-done; err != nil {
				t.Errorf("re-authentication: %v", err)
			}
		}
		closeBoth(t, c, p)
		if err := c.Reauthenticate(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("re-authentication after Close: %v", err)
		}
	})
}

func TestExchangeFails(t *testing.T) {
	for name, final := range map[string]mqtt.Connack{
		"server does not prove itself":     {Props: method("ECHO", "hello")},
		"another method [MQTT-4.12.0-5]":   {Props: method("OTHER", "bye")},
		"no method at all [MQTT-4.12.0-5]": {},
		"refused":                          {Code: mqtt.NotAuthorized},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p, nc := newPeer(t, mqtt.V5)
				go p.login(final)
				if _, err := Connect(t.Context(), nc, Config{Exchange: new(echo)}); err == nil {
					t.Error("connected")
				}
			})
		})
	}
}

func TestReauthenticationFails(t *testing.T) {
	for name, tc := range map[string]struct {
		answer []byte
		code   mqtt.ReasonCode
	}{
		"another method [MQTT-4.12.0-5]": {(&mqtt.Auth{Code: mqtt.ContinueAuthentication, Props: method("OTHER", "")}).Append(nil), mqtt.ProtocolError},
		"no proof":                       {(&mqtt.Auth{Props: method("ECHO", "hello")}).Append(nil), mqtt.NotAuthorized},
		"the client's code":              {(&mqtt.Auth{Code: mqtt.ReAuthenticate, Props: method("ECHO", "")}).Append(nil), mqtt.ProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p, nc := newPeer(t, mqtt.V5)
				go p.login(mqtt.Connack{Props: method("ECHO", "bye")})
				c, err := Connect(t.Context(), nc, Config{Exchange: new(echo)})
				if err != nil {
					t.Fatal(err)
				}
				done := result(func() error { return c.Reauthenticate(t.Context()) })
				p.auth(mqtt.ReAuthenticate, "first")
				p.send(tc.answer)
				if d := p.disconnect(); d.Code != tc.code {
					t.Errorf("DISCONNECT with %v, want %v", d.Code, tc.code)
				}
				_ = p.nc.Close()
				isCode(t, <-done, tc.code)
				isCode(t, ended(c), tc.code)
			})
		})
	}
}

// slowStart is an exchange whose beginnings take a second, and must not overlap.
type slowStart struct {
	echo
	t    *testing.T
	busy atomic.Bool
}

func (x *slowStart) Start() ([]byte, error) {
	if x.busy.Swap(true) {
		x.t.Error("begun twice at a time")
	}
	defer x.busy.Store(false)
	time.Sleep(time.Second) // in the bubble
	return x.echo.Start()
}

// TestReauthenticateWhileLinkBreaks: the next connection begins its exchange when that of the last one has begun.
func TestReauthenticateWhileLinkBreaks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServers(t, mqtt.V5)
		peers := make(chan *peer)
		go func() {
			for p := range s.peers {
				p.login(mqtt.Connack{Props: method("ECHO", "bye")})
				peers <- p
			}
		}()
		c, err := Dial(t.Context(), "mqtt://server", WithDialer(s.dial), WithLazyConnect(), WithExchange(&slowStart{t: t}),
			WithBackoff(time.Millisecond, time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		p := <-peers
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := result(func() error { return c.Reauthenticate(t.Context()) })
		synctest.Wait()
		_ = p.nc.Close()
		if err := <-again; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
		closeClient(t, c, <-peers)
		close(s.peers)
	})
}

func TestReauthenticateNeedsExchange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, p := open(t, Config{}, nil)
		if err := c.Reauthenticate(t.Context()); err == nil {
			t.Error("no error")
		}
		closeBoth(t, c, p)
	})
}

// The example of RFC 7677, section 3.
const (
	rfcNonce       = "rOprNGfwEbeRWgbNEkqO"
	rfcServerFirst = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcClientFinal = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcServerFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

func rfcScram() *scram {
	return &scram{user: "user", password: "pencil", nonce: func() string { return rfcNonce }}
}

func TestScramVector(t *testing.T) {
	s := rfcScram()
	if first, _ := s.Start(); string(first) != "n,,n=user,r="+rfcNonce {
		t.Errorf("first message %q", first)
	}
	if final, err := s.Next([]byte(rfcServerFirst)); err != nil || string(final) != rfcClientFinal {
		t.Errorf("final message %q, %v", final, err)
	}
	if err := s.Finish([]byte(rfcServerFinal)); err != nil {
		t.Error(err)
	}
	if err := s.Finish([]byte(rfcServerFinal[:20])); err == nil {
		t.Error("a wrong signature is taken")
	}
}

func TestScramHostileServer(t *testing.T) {
	for name, first := range map[string]string{
		"empty":              "",
		"another nonce":      strings.Replace(rfcServerFirst, "rOpr", "xxxx", 1),
		"our nonce alone":    "r=" + rfcNonce + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
		"no salt":            "r=" + rfcNonce + "x,s=,i=4096",
		"salt is not base64": "r=" + rfcNonce + "x,s=!,i=4096",
		"cheap":              "r=" + rfcNonce + "x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
		"expensive":          "r=" + rfcNonce + "x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4000000000",
		"not a number":       "r=" + rfcNonce + "x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=x",
		"error":              "e=other-error",
	} {
		s := rfcScram()
		_, _ = s.Start()
		if _, err := s.Next([]byte(first)); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := s.Finish([]byte("v=")); err == nil {
			t.Errorf("%s: the server is trusted", name)
		}
	}
}

// TestScramEscapes: a name cannot add fields to the message.
func TestScramEscapes(t *testing.T) {
	first, _ := Scram("a=b,r=x", "").Start()
	if !strings.HasPrefix(string(first), "n,,n=a=3Db=2Cr=3Dx,r=") {
		t.Errorf("first message %q", first)
	}
}
