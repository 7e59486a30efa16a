package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// The example of RFC 7677 §3.
const (
	rfcClientNonce = "rOprNGfwEbeRWgbNEkqO"
	rfcServerNonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	rfcClientFirst = "n,,n=user,r=" + rfcClientNonce
	rfcServerFirst = "r=" + rfcClientNonce + rfcServerNonce + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcClientFinal = "c=biws,r=" + rfcClientNonce + rfcServerNonce + ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcServerFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

// rfcKeys are the keys of its user, derived once.
var rfcKeys = sync.OnceValue(func() ScramKeys {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		panic(err)
	}
	return deriveScramKeys("pencil", salt, 4096)
})

// rfcExchange is a server's side with the nonce of the example.
func rfcExchange(t testing.TB, r *broker.ConnectRequest) broker.Exchange {
	t.Helper()
	keys := rfcKeys()
	x, err := NewScram(func(user string) (ScramKeys, bool) { return keys, user == "user" }, nil).Start(r)
	if err != nil {
		t.Fatal(err)
	}
	x.(*scramExchange).nonce = func() string { return rfcServerNonce }
	return x
}

func TestScramRFC7677Server(t *testing.T) {
	x := rfcExchange(t, &broker.ConnectRequest{})
	for i, step := range []struct {
		in, out string
		done    bool
	}{{rfcClientFirst, rfcServerFirst, false}, {rfcClientFinal, rfcServerFinal, true}} {
		if x.Grant().User != "" {
			t.Errorf("step %d: a grant before the proof", i)
		}
		reply, done, err := x.Next(t.Context(), []byte(step.in))
		if err != nil || string(reply) != step.out || done != step.done {
			t.Fatalf("step %d: got %q, %v, %v", i, reply, done, err)
		}
	}
	if x.Grant().User != "user" {
		t.Errorf("granted to %q", x.Grant().User)
	}
	if _, done, err := x.Next(t.Context(), []byte(rfcClientFinal)); err == nil || done && err == nil {
		t.Error("the exchange goes on after its end")
	}
}

func TestScramRFC7677Client(t *testing.T) {
	c := NewScramClient("user", "pencil")
	c.nonce = func() string { return rfcClientNonce }
	for i, step := range []struct {
		in, out string
		done    bool
	}{{"", rfcClientFirst, false}, {rfcServerFirst, rfcClientFinal, false}, {rfcServerFinal, "", true}} {
		reply, done, err := c.Next([]byte(step.in))
		if err != nil || string(reply) != step.out || done != step.done {
			t.Fatalf("step %d: got %q, %v, %v", i, reply, done, err)
		}
	}
}

// runScram lets both sides talk until one is done.
func runScram(x broker.Exchange, c *ScramClient) (g broker.Grant, transcript [][]byte, err error) {
	msg, _, err := c.Next(nil)
	if err != nil {
		return g, transcript, err
	}
	for {
		reply, serverDone, err := x.Next(context.Background(), msg)
		if err != nil {
			return g, transcript, err
		}
		transcript = append(transcript, msg, reply)
		next, clientDone, err := c.Next(reply)
		if err != nil {
			return g, transcript, err
		}
		if serverDone != clientDone {
			return g, transcript, fmt.Errorf("server done: %v, client done: %v", serverDone, clientDone)
		}
		if serverDone {
			return x.Grant(), transcript, nil
		}
		msg = next
	}
}

func TestScram(t *testing.T) {
	users := map[string]ScramKeys{}
	for _, user := range []string{"anna", "a,b=c", "=2C", "李雷"} {
		k, err := NewScramKeys("pässword,="+user, 4096)
		if err != nil {
			t.Fatal(err)
		}
		users[user] = k
	}
	s := NewScram(func(user string) (ScramKeys, bool) { k, ok := users[user]; return k, ok }, nil)
	if s.Method() != "SCRAM-SHA-256" {
		t.Errorf("method %q", s.Method())
	}
	for user := range users {
		for _, test := range []struct {
			password string
			want     mqtt.ReasonCode
		}{{"pässword,=" + user, mqtt.Success}, {"wrong", mqtt.BadUserNameOrPassword}} {
			x, err := s.Start(&broker.ConnectRequest{})
			if err != nil {
				t.Fatal(err)
			}
			g, _, err := runScram(x, NewScramClient(user, test.password))
			wantCode(t, err, test.want)
			if err == nil && g.User != user {
				t.Errorf("%q became %q", user, g.User)
			}
		}
	}
}

// An unknown user is asked for a proof like a known one, with the same salt each time, and refused alike.
func TestA14ScramEnumeration(t *testing.T) {
	path := write(t, twoUsers)
	salts := map[string]string{}
	for range 2 { // as after a restart
		f, err := OpenPasswords(path, PasswordConfig{})
		if err != nil {
			t.Fatal(err)
		}
		for _, user := range []string{"bob", "anna", "nobody", "nobody2"} { // anna has no SCRAM keys
			x, err := f.Scram().Start(&broker.ConnectRequest{})
			if err != nil {
				t.Fatal(err)
			}
			reply, done, err := x.Next(t.Context(), []byte("n,,n="+user+",r=abc"))
			if err != nil || done {
				t.Fatalf("%s: %q, %v, %v", user, reply, done, err)
			}
			_, salt, iterations, err := parseServerFirst(string(reply))
			if err != nil || len(salt) != 16 || iterations != 4096 {
				t.Errorf("%s: %d bytes of salt, %d iterations, %v", user, len(salt), iterations, err)
			}
			if before, ok := salts[user]; ok && before != string(salt) {
				t.Errorf("%s: another salt the second time", user)
			}
			salts[user] = string(salt)
			nonce, _, _ := strings.Cut(strings.TrimPrefix(string(reply), "r="), ",")
			_, _, err = x.Next(t.Context(), []byte("c=biws,r="+nonce+",p="+strings.Repeat("A", 43)+"="))
			wantCode(t, err, mqtt.BadUserNameOrPassword)
		}
	}
	if salts["nobody"] == salts["nobody2"] {
		t.Error("all unknown users have one salt")
	}
}

func TestScramRefused(t *testing.T) {
	final := func(old, new string) string { return strings.Replace(rfcClientFinal, old, new, 1) }
	bad := mqtt.BadUserNameOrPassword
	tests := []struct {
		name, first, final string
		want               mqtt.ReasonCode
	}{
		{"no data", "", "", bad},
		{"no header", "n=user,r=abc", "", bad},
		{"channel binding", "p=tls-exporter,,n=user,r=abc", "", mqtt.BadAuthenticationMethod},
		{"unknown flag", "x,,n=user,r=abc", "", bad},
		{"other authzid", "n,a=root,n=user,r=abc", "", bad},
		{"mandatory extension", "n,,m=x,n=user,r=abc", "", bad},
		{"empty user", "n,,n=,r=abc", "", bad},
		{"bad escape", "n,,n=us=er,r=abc", "", bad},
		{"control character", "n,,n=us\x01er,r=abc", "", bad},
		{"not UTF-8", "n,,n=us\xffer,r=abc", "", bad},
		{"no nonce", "n,,n=user", "", bad},
		{"empty nonce", "n,,n=user,r=", "", bad},
		{"space in nonce", "n,,n=user,r=a b", "", bad},
		{"too long", "n,,n=user,r=" + strings.Repeat("a", maxScramMessage), "", bad},
		{"other user", strings.Replace(rfcClientFirst, "n=user", "n=usor", 1), rfcClientFinal, bad},
		{"no proof", rfcClientFirst, "c=biws,r=" + rfcClientNonce + rfcServerNonce, bad},
		{"empty final", rfcClientFirst, "", bad},
		{"short proof", rfcClientFirst, "c=biws,r=" + rfcClientNonce + rfcServerNonce + ",p=AAAA", bad},
		{"other proof", rfcClientFirst, final("dHzb", "AHzb"), bad},
		{"client's nonce only", rfcClientFirst, final(rfcServerNonce, ""), bad},
		{"other nonce", rfcClientFirst, final("%hv", "%hw"), bad},
		{"other header", rfcClientFirst, final("biws", "eSws"), bad},
		{"added extension", rfcClientFirst, final(",p=", ",x=y,p="), bad},
		{"final first", rfcClientFinal, "", bad},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			x := rfcExchange(t, &broker.ConnectRequest{})
			_, done, err := x.Next(t.Context(), []byte(test.first))
			if err == nil && !done {
				_, done, err = x.Next(t.Context(), []byte(test.final))
			}
			wantCode(t, err, test.want)
			if done || x.Grant().User != "" {
				t.Error("let in")
			}
		})
	}
}

func TestScramUserOfConnect(t *testing.T) {
	for user, want := range map[string]mqtt.ReasonCode{"user": mqtt.Success, "admin": mqtt.BadUserNameOrPassword} {
		x := rfcExchange(t, login(user, ""))
		_, _, err := x.Next(t.Context(), []byte(rfcClientFirst))
		wantCode(t, err, want)
	}
}

// A client must not believe a server that does not know its keys.
func TestScramFalseServer(t *testing.T) {
	tests := []struct{ name, first, final string }{
		{"our nonce dropped", "r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ""},
		{"nothing added to our nonce", "r=" + rfcClientNonce + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ""},
		{"too few iterations", strings.Replace(rfcServerFirst, "4096", "1", 1), ""},
		{"too many iterations", strings.Replace(rfcServerFirst, "4096", "2000000000", 1), ""},
		{"no salt", "r=" + rfcClientNonce + "x,s=,i=4096", ""},
		{"malformed", "hello", ""},
		{"no signature", rfcServerFirst, ""},
		{"empty signature", rfcServerFirst, "v="},
		{"other signature", rfcServerFirst, strings.Replace(rfcServerFinal, "6rri", "7rri", 1)},
		{"an error", rfcServerFirst, "e=other-error"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := NewScramClient("user", "pencil")
			c.nonce = func() string { return rfcClientNonce }
			if _, _, err := c.Next(nil); err != nil {
				t.Fatal(err)
			}
			_, done, err := c.Next([]byte(test.first))
			if err == nil {
				_, done, err = c.Next([]byte(test.final))
			}
			if err == nil || done {
				t.Error("the client believes it")
			}
		})
	}
}

func TestScramKeys(t *testing.T) {
	k, err := ParseScramKeys(scramKeys)
	if err != nil || k.String() != scramKeys || rfcKeys().String() != scramKeys {
		t.Errorf("got %v, %v; want %s, which is %v", k, err, scramKeys, rfcKeys())
	}
	fresh, err := NewScramKeys("x", 0)
	if err != nil || fresh.Iterations != 15_000 || !fresh.check([]byte("x")) || fresh.check([]byte("y")) {
		t.Errorf("got %v, %v", fresh, err)
	}
	other, _ := NewScramKeys("x", 0)
	if bytes.Equal(fresh.Salt, other.Salt) {
		t.Error("two users share a salt")
	}
	for _, test := range []struct {
		password   string
		iterations int
	}{{"x", 4095}, {"x", 1 << 40}, {"", 4096}, {"a\nb", 4096}, {"\xff", 4096}} {
		if _, err := NewScramKeys(test.password, test.iterations); err == nil {
			t.Errorf("%q with %d iterations was taken", test.password, test.iterations)
		}
	}
}

// Whatever comes, only who knows the password gets in.
func FuzzScram(f *testing.F) {
	f.Add([]byte(rfcClientFirst), []byte(strings.Replace(rfcClientFinal, "dHzb", "dHzc", 1)))
	f.Add([]byte("y,a=user,n=user,r=x,ext=1"), []byte("c=eSxhPXVzZXIs,r=x,p=AAAA"))
	f.Add([]byte("p=x,,n=user"), []byte(""))
	f.Fuzz(func(t *testing.T, first, final []byte) {
		x := rfcExchange(t, &broker.ConnectRequest{})
		reply, done, err := x.Next(t.Context(), first)
		if err == nil {
			if _, _, _, err := parseServerFirst(string(reply)); err != nil {
				t.Errorf("server says %q: %v", reply, err)
			}
			_, done, err = x.Next(t.Context(), final)
		}
		if done && string(first)+string(final) != rfcClientFirst+rfcClientFinal {
			t.Errorf("let in with %q and %q", first, final)
		}
		if err == nil != done {
			t.Errorf("done %v with error %v", done, err)
		}
	})
}

func FuzzScramClient(f *testing.F) {
	f.Add([]byte(rfcServerFirst), []byte("v=AAAA"))
	f.Fuzz(func(t *testing.T, first, final []byte) {
		if bytes.Contains(first, []byte(",i=")) && !bytes.Contains(first, []byte(",i=4096")) {
			return // keep it fast
		}
		c := NewScramClient("user", "pencil")
		c.nonce = func() string { return rfcClientNonce }
		_, _, _ = c.Next(nil)
		if _, _, err := c.Next(first); err != nil {
			return
		}
		if _, done, err := c.Next(final); done && err == nil && string(final) != rfcServerFinal {
			t.Errorf("believes %q and %q", first, final)
		}
	})
}
