package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/mqtt"
)

// passwords is a file with the user alice, made once: hashing is slow on purpose.
var passwords = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "magpie")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "passwords")
	if err := auth.SetPassword(path, "alice", "p001", auth.PasswordOptions{SCRAM: true}); err != nil {
		panic(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return data
})

// parse reads a configuration as serve does.
func parse(t *testing.T, file string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "passwords"), passwords(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&serveCmd{}).apply(cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func openAccess(t *testing.T, file string) *access {
	t.Helper()
	a, faults, err := newAccess(parse(t, file), slog.New(slog.DiscardHandler))
	if err != nil || len(faults) > 0 {
		t.Fatal(err, faults)
	}
	t.Cleanup(a.close)
	return a
}

// Who is let in where: the rules of every kind of client on every kind of listener.
func TestLogin(t *testing.T) {
	const listeners = `
listeners:
  - {name: local, network: tcp, address: "127.0.0.1:1"}
  - {name: public, network: tcp, address: "0.0.0.0:1"}
  - {name: guests, network: tcp, address: "0.0.0.0:2", allow_anonymous: true}
  - {name: strict, network: tcp, address: "127.0.0.1:2", allow_anonymous: false}
`
	type who struct{ user, password string }
	nobody, alice, liar, stranger := who{}, who{"alice", "p001"}, who{"alice", "p002"}, who{"eve", "p001"}
	for _, c := range []struct {
		auth    string
		who     who
		allowed string // listeners that let in: the first letters of local, public, guests, strict, http
	}{
		{``, nobody, "lgh"},
		{``, alice, "lgh"}, // whatever they claim: they are nobody in particular
		{`auth: {allow_anonymous: true}`, nobody, "lpgh"},
		{`auth: {allow_anonymous: false}`, nobody, "g"},
		{`auth: {password_file: passwords}`, nobody, "g"},
		{`auth: {password_file: passwords}`, alice, "lpgsh"},
		{`auth: {password_file: passwords}`, liar, ""},
		{`auth: {password_file: passwords}`, stranger, ""},
		{`auth: {password_file: passwords, allow_anonymous: true}`, nobody, "lpgh"},
		{`auth: {password_file: passwords, allow_anonymous: true}`, liar, ""},
		{`auth: {password_file: passwords, client_id: "%u"}`, alice, ""},
		{`auth: {password_file: passwords, client_id: "c*"}`, alice, "lpgsh"},
		{`auth: {password_file: passwords, client_id: "%u"}`, nobody, "g"},
	} {
		a := openAccess(t, listeners+c.auth)
		allowed := ""
		for _, l := range []string{"local", "public", "guests", "strict", "http"} {
			if lets(a, l, c.who.user, c.who.password) {
				allowed += l[:1]
			}
		}
		if allowed != c.allowed {
			t.Errorf("%s: %+v is let in by %q, want %q", c.auth, c.who, allowed, c.allowed)
		}
	}
}

// lets asks behind the throttle, which would only make this slow.
func lets(a *access, listener, user, password string) bool {
	r := &broker.ConnectRequest{
		ClientID: "c1", HasUsername: user != "", Username: user, HasPassword: password != "", Password: []byte(password), Listener: listener,
		Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1},
	}
	_, err := byListener{a}.Authenticate(context.Background(), r)
	return err == nil
}

func TestUnknownListener(t *testing.T) {
	if lets(openAccess(t, ``), "other", "", "") {
		t.Error("a listener that is not configured let somebody in")
	}
}

// SCRAM logs in with the same rules as passwords.
func TestScram(t *testing.T) {
	for _, c := range []struct {
		auth, client string
		want         error
	}{
		{`auth: {password_file: passwords, scram: true}`, "c1", nil},
		{`auth: {password_file: passwords, scram: true, client_id: "%u-*"}`, "alice-1", nil},
		{`auth: {password_file: passwords, scram: true, client_id: "%u-*"}`, "c1", mqtt.ClientIdentifierNotValid},
		{`auth: {password_file: passwords}`, "c1", mqtt.BadAuthenticationMethod},
		{``, "c1", mqtt.BadAuthenticationMethod},
	} {
		a := openAccess(t, c.auth)
		if err := scramLogin(t, scramMethod{a}, c.client); !errors.Is(err, c.want) {
			t.Errorf("%s, client %s: got %v, want %v", c.auth, c.client, err, c.want)
		}
	}
}

func scramLogin(t *testing.T, m broker.EnhancedAuthenticator, clientID string) error {
	t.Helper()
	x, err := m.Start(&broker.ConnectRequest{ClientID: clientID, Listener: "mqtt"})
	if err != nil {
		return err
	}
	c := client.Scram("alice", "p001")
	reply, err := c.Start()
	for {
		if err != nil {
			t.Fatal(err)
		}
		data, done, err := x.Next(t.Context(), reply)
		if err != nil || done {
			return err
		}
		if reply, err = c.Next(data); err != nil {
			t.Fatal(err)
		}
	}
}

// What has no authentication and was not opened expressly does not start.
func TestCheckOpen(t *testing.T) {
	for _, c := range []struct {
		file string
		ok   bool
	}{
		{``, true},
		{`http: {address: "0.0.0.0:1"}`, false},
		{`http: {address: "0.0.0.0:1"}
auth: {allow_anonymous: true}`, true},
		{`listeners: [{network: tcp, address: "0.0.0.0:1"}]`, false},
		{`listeners: [{network: tcp, address: ":1"}]`, false},
		{`listeners: [{network: tcp, address: "[::]:1"}]`, false},
		{`listeners: [{network: tcp, address: "example.com:1"}]`, false},
		{`listeners: [{network: tcp, address: "[::1]:1"}]`, true},
		{`listeners: [{network: unix, address: s}]`, true},
		{`listeners: [{network: tcp, address: "0.0.0.0:1", allow_anonymous: true}]`, true},
		{`listeners: [{network: tcp, address: "0.0.0.0:1"}]
auth: {password_file: passwords}`, true},
		{`auth: {allow_anonymous: false}`, false},
		{`listeners: [{network: tls, address: "0.0.0.0:1", tls: {cert: c, key: k, client_ca: ca, client_auth: require, identity: cn}}]`, true},
		{`listeners: [{network: tls, address: "0.0.0.0:1", tls: {cert: c, key: k, client_ca: ca, client_auth: require}}]`, false},
	} {
		err := checkOpen(parse(t, c.file))
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.file, err)
		}
		var f *failure
		if err != nil && (!errors.As(err, &f) || f.code != 2 || f.hint == "") {
			t.Errorf("%s: %v has no remedy or not the exit code 2", c.file, err)
		}
	}
}

// A configuration whose files are broken replaces nothing, and leaves nothing running.
func TestReplace(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	a, _, err := newAccess(parse(t, `auth: {password_file: passwords}`), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a.start(func() {})
	if err := a.replace(parse(t, `auth: {password_file: nothing, allow_anonymous: true}`), func() {}); err == nil {
		t.Error("a missing file was taken")
	}
	if err := a.replace(parse(t, `auth: {http: {connect_url: "http://127.0.0.1:1", bearer_file: nothing}}`), func() {}); err == nil {
		t.Error("a missing token was taken")
	}
	if lets(a, "mqtt", "", "") || !lets(a, "mqtt", "alice", "p001") {
		t.Error("a bad configuration changed something")
	}
	if err := a.replace(parse(t, `auth: {allow_anonymous: true}`), func() {}); err != nil || !lets(a, "mqtt", "", "") {
		t.Errorf("a good configuration changed nothing: %v", err)
	}
	a.close()
}
