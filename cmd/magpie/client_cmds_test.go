package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
	"github.com/magpiemq/magpie/transport"
)

// TestClientScripts runs the scripts of pub, sub, req and bench, which are their manual. Besides the usual commands they have:
//
//	broker [user NAME PASSWORD] [scram NAME PASSWORD] [deny FILTER] [tls] [ws] [unix]
//	                 start a broker in this process; PORT, TLSPORT, WSPORT and SOCKET are set
//	subscribed FILTER   wait until somebody has subscribed to it
//	gone ID normal|abnormal   wait until that client has left, with or without DISCONNECT
//	respond TOPIC    answer requests to it with "re:" and the request
//	proxy [BYTES…]   start a proxy before the broker, on port PROXY; its first connections are cut after so many bytes from the client
//	link cut|down|up|mute    cut all its connections; and from now on close new ones, let them through, or answer nothing
//	turned           wait until it has closed a new one
//	restart          put a new broker behind it, which remembers nothing
//	certs            make ca.crt, server.crt, server.key, client.crt, client.key and more
func TestClientScripts(t *testing.T) {
	var files []string
	for _, pattern := range []string{"pub*", "sub*", "req*", "bench*"} {
		found, err := filepath.Glob("testdata/" + pattern + ".txtar")
		if err != nil || len(found) == 0 {
			t.Fatalf("no scripts %s: %v", pattern, err)
		}
		files = append(files, found...)
	}
	testscript.Run(t, testscript.Params{
		Files: files, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Values[stageKey{}] = newStage()
			return os.WriteFile(filepath.Join(e.WorkDir, "bytes.bin"), []byte("\xff\x00\xfe\n"), 0o600) // what an archive cannot hold
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"broker": cmdBroker, "subscribed": cmdSubscribed, "gone": cmdLeft, "respond": cmdRespond, "certs": cmdCerts,
			"proxy": cmdProxy, "link": cmdLink, "turned": cmdTurned, "restart": cmdRestart,
		},
	})
}

type stageKey struct{}

// stage is the broker of a script and what has happened there.
type stage struct {
	broker *broker.Broker
	port   string
	proxy  *proxy

	mu         sync.Mutex // guards all below
	changed    sync.Cond
	subscribed []string
	left       map[string]string // "normal" or "abnormal" by client
}

func newStage() *stage {
	s := &stage{left: make(map[string]string)}
	s.changed.L = &s.mu
	return s
}

func stageOf(ts *testscript.TestScript) *stage { return ts.Value(stageKey{}).(*stage) }

// await waits until ready reports true.
func (s *stage) await(ts *testscript.TestScript, what string, ready func() bool) {
	awaitCond(ts, what, &s.mu, &s.changed, ready)
}

// awaitCond waits for a condition that mu guards.
func awaitCond(ts *testscript.TestScript, what string, mu *sync.Mutex, changed *sync.Cond, ready func() bool) {
	late := false
	timer := time.AfterFunc(patience, func() {
		mu.Lock()
		defer mu.Unlock()
		late = true
		changed.Broadcast()
	})
	defer timer.Stop()
	mu.Lock()
	defer mu.Unlock()
	for !ready() {
		if late {
			ts.Fatalf("%s: waited for %v", what, patience)
		}
		changed.Wait()
	}
}

func (s *stage) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.changed.Broadcast()
}

func cmdSubscribed(ts *testscript.TestScript, _ bool, args []string) {
	s := stageOf(ts)
	s.await(ts, "subscribed "+args[0], func() bool { return slices.Contains(s.subscribed, args[0]) })
}

func cmdLeft(ts *testscript.TestScript, _ bool, args []string) {
	s := stageOf(ts)
	var how string
	s.await(ts, "gone "+args[0], func() bool {
		how = s.left[args[0]]
		return how != ""
	})
	if how != args[1] {
		ts.Fatalf("%s left in a way that is %s", args[0], how)
	}
}

// events notes what scripts wait for.
func (s *stage) events() broker.Events {
	return broker.Events{
		Subscribed: func(_ *broker.ClientInfo, sub mqtt.Subscription) {
			s.note(func() { s.subscribed = append(s.subscribed, sub.Filter) })
		},
		Disconnected: func(c *broker.ClientInfo, err error) {
			how := "normal"
			if err != nil {
				how = "abnormal"
			}
			s.note(func() { s.left[c.ClientID] = how })
		},
	}
}

// denied lets nobody read, write or subscribe to what matches a filter.
type denied string

func (d denied) Authorize(_ *broker.ClientInfo, _ broker.Action, name string) error {
	if topic.Match(string(d), name) {
		return mqtt.NotAuthorized
	}
	return nil
}

// oneUser lets in who has that password.
type oneUser struct{ name, password string }

func (u oneUser) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if r.Username != u.name || string(r.Password) != u.password {
		return broker.Grant{}, mqtt.BadUserNameOrPassword
	}
	return broker.Grant{User: u.name}, nil
}

func cmdBroker(ts *testscript.TestScript, neg bool, args []string) {
	s := stageOf(ts)
	cfg := broker.Config{Events: s.events(), ResponsePrefix: "answers/"}
	listen := []transport.Config{{Network: transport.TCP, Address: "127.0.0.1:0"}}
	next := func() (word string) {
		if len(args) == 0 {
			ts.Fatalf("broker: a word is missing")
		}
		word, args = args[0], args[1:]
		return word
	}
	for len(args) > 0 {
		switch word := next(); word {
		case "user":
			cfg.Authenticator = oneUser{next(), next()}
		case "scram":
			name, password := next(), next()
			keys, err := auth.NewScramKeys(password, 4096)
			ts.Check(err)
			cfg.Enhanced = []broker.EnhancedAuthenticator{auth.NewScram(func(user string) (auth.ScramKeys, bool) { return keys, user == name }, nil)}
			cfg.Authenticator = oneUser{name, rejectAll}
		case "deny":
			cfg.Authorizer = denied(next())
		case "tls":
			files := transport.CertFiles{Cert: ts.MkAbs("server.crt"), Key: ts.MkAbs("server.key")}
			listen = append(listen, transport.Config{Network: transport.TLS, Address: "127.0.0.1:0", TLS: &transport.TLSConfig{Certificates: []transport.CertFiles{files}}})
		case "ws":
			listen = append(listen, transport.Config{Network: transport.WS, Address: "127.0.0.1:0"})
		case "unix":
			dir, err := os.MkdirTemp("", "magpie") // the script's own directory is too long a name for a socket
			ts.Check(err)
			ts.Defer(func() { _ = os.RemoveAll(dir) })
			listen = append(listen, transport.Config{Network: transport.Unix, Address: filepath.Join(dir, "s")})
		default:
			ts.Fatalf("broker: %s is not known", word)
		}
	}
	ts.Check(s.start(ts, cfg, listen))
}

// rejectAll is a password that nobody can have: only the other method of this broker lets in.
const rejectAll = "\x00"

// start runs a broker until the script ends.
func (s *stage) start(ts *testscript.TestScript, cfg broker.Config, listen []transport.Config) error {
	b, err := broker.New(cfg)
	if err != nil {
		return err
	}
	var listeners []net.Listener
	for _, c := range listen {
		ln, err := transport.Listen(c)
		if err != nil {
			return errors.Join(err, b.Shutdown(context.Background()))
		}
		listeners = append(listeners, ln)
		env := map[string]string{transport.TCP: "PORT", transport.TLS: "TLSPORT", transport.WS: "WSPORT", transport.Unix: "SOCKET"}[c.Network]
		address := ln.Addr().String()
		if c.Network != transport.Unix {
			address = address[strings.LastIndexByte(address, ':')+1:]
		}
		ts.Setenv(env, address)
	}
	served := make(chan error, 1)
	go func() { served <- b.Serve(context.Background(), listeners...) }()
	ts.Defer(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ts.Check(b.Shutdown(ctx))
		ts.Check(<-served)
	})
	s.broker, s.port = b, ts.Getenv("PORT")
	return nil
}

func cmdRespond(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	ts.Defer(cancel)
	c, err := client.DialConn(ctx, "mqtt://127.0.0.1:"+stageOf(ts).port, client.Config{Handler: func(d *client.Delivery) { answerRequest(ctx, d) }})
	ts.Check(err)
	ts.Defer(func() { _ = c.Close() })
	_, err = c.Subscribe(ctx, mqtt.Subscription{Filter: args[0], QoS: mqtt.AtLeastOnce})
	ts.Check(err)
}

// answerRequest first sends somebody else's answer, then the right one.
func answerRequest(ctx context.Context, d *client.Delivery) {
	name := d.Message.Props.String(mqtt.ResponseTopic)
	if name == "" {
		name = "agreed"
	}
	correlation, marked := d.Message.Props.Bytes(mqtt.CorrelationData)
	if marked {
		wrong := mqtt.Message{Topic: name, Payload: []byte("wrong"), Props: mqtt.Properties(nil).WithString(mqtt.CorrelationData, "not yours")}
		_, _ = d.Conn().Publish(ctx, &wrong)
	}
	m := mqtt.Message{Topic: name, Payload: fmt.Appendf(nil, "re:%s", d.Message.Payload), QoS: d.Message.QoS}
	if marked {
		m.Props = m.Props.WithString(mqtt.CorrelationData, string(correlation))
	}
	_, _ = d.Conn().Publish(ctx, &m) // a script that waits for it fails
}
