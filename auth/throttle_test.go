package auth

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// from is a login from an address.
func from(ip, user, password string) *broker.ConnectRequest {
	r := login(user, password)
	r.Remote = addr(ip)
	return r
}

// took returns how long a login takes in the bubble's time, and what the client hears.
func took(t *testing.T, a broker.Authenticator, r *broker.ConnectRequest) (time.Duration, mqtt.ReasonCode) {
	t.Helper()
	start := time.Now()
	_, err := a.Authenticate(t.Context(), r)
	return time.Since(start), codeOf(err)
}

var vault = Static{"anna": "right", "bob": "right", "eve": "right"}

// Each failure doubles the wait of the next attempt, up to the maximum, and time heals.
func TestA14ThrottleGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &Throttle{Next: vault}
		ms := time.Millisecond
		for i, want := range []time.Duration{0, 500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 8000 * ms, 16000 * ms, 30000 * ms, 30000 * ms} {
			if d, code := took(t, th, from("192.0.2.1", "anna", "wrong")); d != want || code != mqtt.BadUserNameOrPassword {
				t.Errorf("attempt %d: took %v, want %v: %v", i, d, want, code)
			}
		}
		if d, code := took(t, th, from("192.0.2.1", "anna", "right")); d != 30*time.Second || code != mqtt.Success {
			t.Errorf("the right password: took %v: %v", d, code)
		}
		time.Sleep(12 * time.Minute)
		for i, want := range []time.Duration{0, 500 * ms} {
			if d, _ := took(t, th, from("192.0.2.1", "bob", "wrong")); d != want {
				t.Errorf("attempt %d after a rest: took %v, want %v", i, d, want)
			}
		}
	})
}

// What counts together: an address for all users, a user for all addresses, an IPv6 network, an IPv4 address however
// it is written.
func TestA14ThrottleKeys(t *testing.T) {
	tests := []struct {
		name          string
		first, second *broker.ConnectRequest
		waits         bool
	}{
		{"same address, other user", from("192.0.2.1", "anna", "x"), from("192.0.2.1", "bob", "x"), true},
		{"other address, same user", from("192.0.2.1", "anna", "x"), from("192.0.2.2", "anna", "x"), true},
		{"other address, other user", from("192.0.2.1", "anna", "x"), from("192.0.2.2", "bob", "x"), false},
		{"same /64", from("2001:db8::1", "anna", "x"), from("2001:db8::ffff:2", "bob", "x"), true},
		{"other /64", from("2001:db8::1", "anna", "x"), from("2001:db8:0:1::1", "bob", "x"), false},
		{"IPv4 in IPv6", from("192.0.2.1", "anna", "x"), from("::ffff:192.0.2.1", "bob", "x"), true},
		{"success counts nothing", from("192.0.2.1", "anna", "right"), from("192.0.2.1", "anna", "right"), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th := &Throttle{Next: vault}
				took(t, th, test.first)
				if d, _ := took(t, th, test.second); (d > 0) != test.waits {
					t.Errorf("took %v", d)
				}
			})
		})
	}
}

// Many connections at once get no more guesses than one after the other, but for the first burst.
func TestA14ThrottleParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		guesses := 0
		th := &Throttle{Burst: 8, Next: authenticator(func(context.Context, *broker.ConnectRequest) (broker.Grant, error) {
			time.Sleep(50 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			guesses++
			return broker.Grant{}, mqtt.BadUserNameOrPassword
		})}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var all sync.WaitGroup
		for i := range 500 {
			all.Go(func() {
				_, err := th.Authenticate(ctx, from(fmt.Sprintf("192.0.2.%d", i%2), "anna", fmt.Sprint(i)))
				wantCode(t, err, mqtt.BadUserNameOrPassword)
			})
		}
		all.Wait()
		if guesses > 8+2 { // after eight failures the wait is 30 s
			t.Errorf("%d guesses in ten seconds", guesses)
		}
	})
}

// A fleet behind one address that brings right passwords is not slowed down.
func TestThrottleFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &Throttle{Next: authenticator(func(context.Context, *broker.ConnectRequest) (broker.Grant, error) {
			time.Sleep(time.Millisecond)
			return broker.Grant{}, nil
		})}
		start := time.Now()
		var all sync.WaitGroup
		for i := range 320 {
			all.Go(func() {
				_, err := th.Authenticate(t.Context(), from("192.0.2.1", fmt.Sprint("d", i), "x"))
				wantCode(t, err, mqtt.Success)
			})
		}
		all.Wait()
		if d := time.Since(start); d != 10*time.Millisecond { // 32 at once
			t.Errorf("took %v", d)
		}
	})
}

// An attacker with an account of his own cannot wash his failures away.
func TestA14ThrottleOwnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &Throttle{Next: vault}
		start := time.Now()
		for i := range 12 {
			took(t, th, from("192.0.2.66", "eve", "right"))
			took(t, th, from("192.0.2.66", "anna", fmt.Sprint(i)))
		}
		if d := time.Since(start); d < 2*time.Minute {
			t.Errorf("twelve guesses in %v", d)
		}
	})
}

// An attack on a user does not lock the user out from where she was before, not even from the attacker's own address.
func TestThrottleVictim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &Throttle{Next: vault}
		took(t, th, from("192.0.2.1", "anna", "right"))
		for i := range 8 {
			took(t, th, from("192.0.2.66", "anna", fmt.Sprint(i)))
			took(t, th, from("192.0.2.1", "bob", fmt.Sprint(i)))
		}
		if d, code := took(t, th, from("192.0.2.1", "anna", "right")); d != 0 || code != mqtt.Success {
			t.Errorf("took %v: %v", d, code)
		}
		for i := range 10 { // but from there, guessing at her is slow as well
			took(t, th, from("192.0.2.1", "anna", fmt.Sprint(i)))
		}
		if d, _ := took(t, th, from("192.0.2.1", "anna", "11")); d != 30*time.Second {
			t.Errorf("guess took %v", d)
		}
	})
}

// Waiting ends with the context, with the answer of a wrong password, and holds up nobody else.
func TestThrottleContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &Throttle{Next: vault}
		for range 6 {
			took(t, th, from("192.0.2.1", "anna", "wrong"))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := th.Authenticate(ctx, from("192.0.2.1", "anna", "right"))
		wantCode(t, err, mqtt.BadUserNameOrPassword)
		if d := time.Since(start); d != time.Second {
			t.Errorf("took %v", d)
		}
		if d, code := took(t, th, from("192.0.2.2", "bob", "right")); d != 0 || code != mqtt.Success {
			t.Errorf("somebody else took %v: %v", d, code)
		}
	})
}

// Faults of the server are not the client's failures.
func TestThrottleFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for code, punished := range map[error]bool{
			mqtt.ServerUnavailable: false, mqtt.ServerBusy: false, context.Canceled: false, broker.ErrNoOpinion: false,
			mqtt.BadUserNameOrPassword: true, mqtt.NotAuthorized: true, mqtt.Banned: true,
		} {
			th := &Throttle{Next: always(broker.Grant{}, fmt.Errorf("wrapped: %w", code))}
			took(t, th, from("192.0.2.1", "anna", "x"))
			if d, _ := took(t, th, from("192.0.2.1", "anna", "x")); (d > 0) != punished {
				t.Errorf("%v: took %v", code, d)
			}
		}
	})
}

// Made-up users and addresses fill no memory, and do not push out the penalty of who makes them up.
func TestA14ThrottleBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	th := &Throttle{Next: vault, Size: 100, Now: func() time.Time { return now }}
	th.once.Do(th.init)
	attacker := newAttempt(addr("192.0.2.66"), "anna")
	for range 10 {
		th.mu.Lock()
		th.punish(attacker, now)
		th.mu.Unlock()
	}
	for i := range 10_000 {
		a := newAttempt(addr(fmt.Sprintf("10.%d.%d.1", i/250, i%250)), fmt.Sprint("user", i))
		th.mu.Lock()
		th.punish(a, now)
		th.know(newAttempt(addr("192.0.2.7"), fmt.Sprint(i)), now)
		th.mu.Unlock()
		if max(len(th.addrs), len(th.users), len(th.pairs)) > 100 {
			t.Fatalf("%d addresses, %d users, %d pairs", len(th.addrs), len(th.users), len(th.pairs))
		}
	}
	if th.addrs[attacker.addr] == nil || th.users[attacker.user] == nil {
		t.Error("the attacker's penalty was pushed out")
	}
}

func TestThrottleForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &Throttle{Next: Everybody{}}
		took(t, th, from("192.0.2.1", "", ""))
		if n := len(th.addrs) + len(th.users) + len(th.pairs); n != 0 {
			t.Errorf("%d records after a success of nobody", n)
		}
	})
}

// A panic below must not leave a place taken.
func TestThrottlePanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &Throttle{Burst: 1, Next: authenticator(func(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
			if r.Username == "boom" {
				panic("boom")
			}
			return broker.Grant{}, nil
		})}
		func() {
			defer func() { _ = recover() }()
			took(t, th, from("192.0.2.1", "boom", ""))
		}()
		if d, code := took(t, th, from("192.0.2.1", "anna", "")); d > time.Second || code != mqtt.Success {
			t.Errorf("took %v: %v", d, code)
		}
	})
}

func TestPrefixOf(t *testing.T) {
	for _, test := range []struct {
		a    net.Addr
		want string
	}{
		{addr("192.0.2.1"), "192.0.2.1/32"},
		{addr("::ffff:192.0.2.1"), "192.0.2.1/32"},
		{addr("2001:db8:1:2:3::4"), "2001:db8:1:2::/64"},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1}, "fe80::/64"},
		{&net.IPAddr{IP: net.ParseIP("192.0.2.1")}, "192.0.2.1/32"},
		{&net.UnixAddr{Name: "@", Net: "unix"}, "none"},
		{nil, "none"},
	} {
		got := "none"
		if p, ok := prefixOf(test.a); ok {
			got = p.String()
		}
		if got != test.want {
			t.Errorf("%v: got %s, want %s", test.a, got, test.want)
		}
	}
}

// Guessing by SCRAM counts with guessing by password, and a client that stays away in the middle holds nobody up.
func TestA14ThrottleScram(t *testing.T) {
	path := write(t, twoUsers)
	synctest.Test(t, func(t *testing.T) {
		f, err := OpenPasswords(path, PasswordConfig{})
		if err != nil {
			t.Fatal(err)
		}
		th := &Throttle{Next: f, Burst: 1}
		method := th.Enhanced(f.Scram())
		try := func(password string) (time.Duration, error) {
			start := time.Now()
			x, err := method.Start(&broker.ConnectRequest{Remote: addr("192.0.2.1")})
			if err != nil {
				t.Fatal(err)
			}
			g, _, err := runScram(x, NewScramClient("bob", password))
			if err == nil && g.User != "bob" {
				t.Errorf("became %q", g.User)
			}
			return time.Since(start), err
		}
		away, err := method.Start(&broker.ConnectRequest{Remote: addr("192.0.2.1")})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := away.Next(t.Context(), []byte("n,,n=bob,r=abc")); err != nil {
			t.Fatal(err)
		}
		if d, err := try("wrong"); d != 0 || codeOf(err) != mqtt.BadUserNameOrPassword {
			t.Errorf("first: took %v, %v", d, err)
		}
		if d, code := took(t, th, from("192.0.2.9", "bob", "wrong")); d != 500*time.Millisecond || code != mqtt.BadUserNameOrPassword {
			t.Errorf("by password from elsewhere: took %v: %v", d, code)
		}
		if d, err := try("pencil"); d < time.Second || err != nil {
			t.Errorf("the right password: took %v, %v", d, err)
		}
		if d, err := try("pencil"); d != 0 || err != nil {
			t.Errorf("known now: took %v, %v", d, err)
		}
	})
}

func BenchmarkThrottle(b *testing.B) {
	th := &Throttle{Next: Everybody{}}
	r := from("192.0.2.1", "anna", "x")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = th.Authenticate(b.Context(), r)
	}
}
