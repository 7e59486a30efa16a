package auth

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// Throttle slows guessing down. After a failed login, further attempts from its address (for IPv6 its /64) and for its
// user wait: Base after the first failure, twice that after the next, Max at the most. Failures are forgotten one by
// one, each after Decay. Waiting holds up that one connection, until its context ends, and then the answer is that of
// a wrong password. Wrap it around everything else: a whole [Chain], not its members.
//
// How it holds:
//   - Opening many connections at once does not help. Where there was a failure, attempts go one at a time; before
//     the first, Burst of them do.
//   - A success does not wipe out failures, or an attacker with an account of his own would put one between guesses.
//   - An attack on a user must not lock the user out. Who logged in before from an address waits only for failures
//     from there for this user; after too many of those the pair counts as unknown again.
//   - Memory is bounded. When a table is full, an entry with few failures makes place, so that an attacker's flood of
//     made-up users pushes out its own traces and not the penalty of its address.
//
// The zero value with Next set works. Fields must not be changed while it is in use. It is safe for many goroutines.
type Throttle struct {
	Next  broker.Authenticator
	Base  time.Duration    // zero means 500 ms
	Max   time.Duration    // zero means 30 s
	Decay time.Duration    // zero means one minute
	Burst int              // zero means 32
	Size  int              // entries per table (addresses, users, pairs); zero means 65,536
	Now   func() time.Time // nil means time.Now

	once sync.Once

	mu    sync.Mutex // guards all below; never held while waiting
	addrs table
	users table
	pairs table
}

// What the bounds are made of.
const (
	maxFailures    = 12 // counted per entry; more would take longer to forget than they deserve
	strangeAgain   = 8  // failures after which a pair is no longer known
	evictionSample = 8
)

// table holds records by a digest of what they are about.
type table map[uint64]*record

// record is what is known about an address, a user, or both together.
type record struct {
	failures int
	since    time.Time // when failures was last changed, for forgetting
	until    time.Time // no attempt before
	busy     int       // attempts under way
	freed    chan struct{}
	known    bool // pairs only: logged in before
}

// forget drops the failures that are old enough.
func (r *record) forget(now time.Time, decay time.Duration) {
	n := min(r.failures, int(now.Sub(r.since)/decay))
	if n > 0 {
		r.failures -= n
		r.since = r.since.Add(time.Duration(n) * decay)
	}
}

// attempt is who wants to log in.
type attempt struct {
	addr, user, pair uint64
	hasAddr, hasUser bool
}

var throttleSeed = maphash.MakeSeed()

func newAttempt(remote net.Addr, user string) attempt {
	var a attempt
	prefix, ok := prefixOf(remote)
	a.hasAddr, a.hasUser = ok, user != ""
	a.addr = maphash.Comparable(throttleSeed, prefix)
	a.user = maphash.String(throttleSeed, user)
	a.pair = maphash.Comparable(throttleSeed, [2]uint64{a.addr, a.user})
	return a
}

// prefixOf returns the network that one attacker holds: an IPv4 address, or an IPv6 /64. It reports false for
// addresses that are not of the Internet, as of Unix sockets.
func prefixOf(a net.Addr) (netip.Prefix, bool) {
	if a == nil {
		return netip.Prefix{}, false
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		host = a.String()
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}, false
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	return p, err == nil
}

func (t *Throttle) init() {
	t.Base = orDefault(t.Base, 500*time.Millisecond)
	t.Max = orDefault(t.Max, 30*time.Second)
	t.Decay = orDefault(t.Decay, time.Minute)
	t.Burst = orDefault(t.Burst, 32)
	t.Size = orDefault(t.Size, 1<<16)
	if t.Now == nil {
		t.Now = time.Now
	}
	t.addrs, t.users, t.pairs = table{}, table{}, table{}
}

func orDefault[T int | time.Duration](v, fallback T) T {
	if v <= 0 {
		return fallback
	}
	return v
}

// Authenticate waits for its turn and then asks Next.
func (t *Throttle) Authenticate(ctx context.Context, r *broker.ConnectRequest) (g broker.Grant, err error) {
	err = t.guard(ctx, newAttempt(r.Remote, r.Username), func() (proved bool, err error) {
		g, err = t.Next.Authenticate(ctx, r)
		return err == nil, err
	})
	return g, err
}

// guard runs one attempt when its turn comes. What it tries reports whether the client has proved who it is: not every
// step of an exchange that goes well does.
func (t *Throttle) guard(ctx context.Context, a attempt, try func() (proved bool, err error)) error {
	t.once.Do(t.init)
	held, err := t.enter(ctx, a)
	if err != nil {
		return refuse("too many failures: %w", err)
	}
	proved, failed := false, true // what holds when try panics
	defer func() { t.leave(a, held, failed, proved) }()
	proved, err = try()
	failed = isGuess(err)
	return err
}

// isGuess tells failures of the client from those of the server.
func isGuess(err error) bool {
	return errors.Is(err, mqtt.BadUserNameOrPassword) || errors.Is(err, mqtt.NotAuthorized) || errors.Is(err, mqtt.Banned)
}

// enter waits until the attempt may go on, and counts it as under way.
func (t *Throttle) enter(ctx context.Context, a attempt) ([]*record, error) {
	for {
		t.mu.Lock()
		now := t.Now()
		wait, freed := t.blocked(a, now)
		if wait <= 0 && freed == nil {
			held := t.hold(a, now)
			t.mu.Unlock()
			return held, nil
		}
		t.mu.Unlock()
		if err := pause(ctx, wait, freed); err != nil {
			return nil, err
		}
	}
}

// pause waits for a time, or until freed is closed.
func pause(ctx context.Context, wait time.Duration, freed <-chan struct{}) error {
	var passed <-chan time.Time
	if freed == nil {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-passed:
		return nil
	case <-freed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// blocked says what an attempt has to wait for: some time, or another attempt under way.
func (t *Throttle) blocked(a attempt, now time.Time) (wait time.Duration, freed <-chan struct{}) {
	for _, r := range t.consulted(a) {
		r.forget(now, t.Decay)
		if w := r.until.Sub(now); w > wait {
			wait = w
		}
		if r.busy >= t.lanes(r) {
			freed = r.freed
		}
	}
	if wait > 0 {
		return wait, nil
	}
	return 0, freed
}

// lanes is how many attempts may be under way at once.
func (t *Throttle) lanes(r *record) int {
	if r.failures > 0 {
		return 1
	}
	return t.Burst
}

// consulted returns the records that hold an attempt up, as far as they exist.
func (t *Throttle) consulted(a attempt) (rs []*record) {
	if r, ok := t.pairs[a.pair]; ok && a.hasAddr && a.hasUser && r.known {
		return []*record{r}
	}
	if r, ok := t.addrs[a.addr]; ok && a.hasAddr {
		rs = append(rs, r)
	}
	if r, ok := t.users[a.user]; ok && a.hasUser {
		rs = append(rs, r)
	}
	return rs
}

// hold counts an attempt as under way in the records that hold it up, which are made if need be.
func (t *Throttle) hold(a attempt, now time.Time) (held []*record) {
	if r, ok := t.pairs[a.pair]; ok && a.hasAddr && a.hasUser && r.known {
		held = append(held, r)
	} else {
		if a.hasAddr {
			held = append(held, t.record(t.addrs, a.addr, now))
		}
		if a.hasUser {
			held = append(held, t.record(t.users, a.user, now))
		}
	}
	for _, r := range held {
		r.busy++
	}
	return held
}

// leave ends an attempt and notes how it went.
func (t *Throttle) leave(a attempt, held []*record, failed, proved bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.Now()
	if failed {
		t.punish(a, now)
	}
	if proved {
		t.know(a, now)
	}
	for _, r := range held {
		r.busy--
		close(r.freed)
		r.freed = make(chan struct{})
	}
	t.tidy(t.addrs, a.addr)
	t.tidy(t.users, a.user)
	t.tidy(t.pairs, a.pair)
}

// punish counts a failure for everything it was about.
func (t *Throttle) punish(a attempt, now time.Time) {
	if a.hasAddr {
		t.fail(t.record(t.addrs, a.addr, now), now)
	}
	if a.hasUser {
		t.fail(t.record(t.users, a.user, now), now)
	}
	r, ok := t.pairs[a.pair]
	if !ok {
		return
	}
	t.fail(r, now)
	if r.failures >= strangeAgain {
		r.known = false
	}
}

func (t *Throttle) fail(r *record, now time.Time) {
	r.forget(now, t.Decay)
	r.failures = min(r.failures+1, maxFailures)
	r.since = now
	wait := min(t.Base<<(r.failures-1), t.Max)
	if until := now.Add(wait); until.After(r.until) {
		r.until = until
	}
}

// record returns the record of a key and makes it if there is none.
func (t *Throttle) record(in table, key uint64, now time.Time) *record {
	if r, ok := in[key]; ok {
		return r
	}
	if len(in) >= t.Size {
		t.evict(in, now)
	}
	r := &record{since: now, freed: make(chan struct{})}
	in[key] = r
	return r
}

// evict drops, of a few entries picked by chance (as Go's maps do), the one that matters least. If all of them are
// busy the table grows, by less than there are connections.
func (t *Throttle) evict(in table, now time.Time) {
	var victim uint64
	var least *record
	seen := 0
	for key, r := range in {
		if seen++; seen > evictionSample {
			break
		}
		r.forget(now, t.Decay)
		if r.busy == 0 && (least == nil || r.failures < least.failures ||
			r.failures == least.failures && r.since.Before(least.since)) {
			victim, least = key, r
		}
	}
	if least != nil {
		delete(in, victim)
	}
}

// tidy drops a record that says nothing.
func (t *Throttle) tidy(in table, key uint64) {
	if r, ok := in[key]; ok && r.busy == 0 && r.failures == 0 && !r.known {
		delete(in, key)
	}
}

// know notes that a user logged in from an address.
func (t *Throttle) know(a attempt, now time.Time) {
	if !a.hasAddr || !a.hasUser {
		return
	}
	r := t.record(t.pairs, a.pair, now)
	r.known = true
	if r.failures == 0 {
		r.since = now // the age by which evict chooses
	}
}

// Enhanced throttles an authentication method by the same counts: SCRAM is guessed at no faster than passwords.
func (t *Throttle) Enhanced(next broker.EnhancedAuthenticator) broker.EnhancedAuthenticator {
	return throttledMethod{next, t}
}

type throttledMethod struct {
	broker.EnhancedAuthenticator
	throttle *Throttle
}

func (m throttledMethod) Start(r *broker.ConnectRequest) (broker.Exchange, error) {
	x, err := m.EnhancedAuthenticator.Start(r)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", m.Method(), err)
	}
	return &throttledExchange{Exchange: x, throttle: m.throttle, remote: r.Remote, user: r.Username}, nil
}

type throttledExchange struct {
	broker.Exchange
	throttle *Throttle
	remote   net.Addr
	user     string
}

// Next waits for its turn at every step: between steps nothing is held, so that a client that stays away holds nobody up.
func (x *throttledExchange) Next(ctx context.Context, data []byte) (reply []byte, done bool, err error) {
	if named, ok := x.Exchange.(interface{ claimedUser() string }); ok && named.claimedUser() != "" {
		x.user = named.claimedUser()
	}
	err = x.throttle.guard(ctx, newAttempt(x.remote, x.user), func() (proved bool, err error) {
		reply, done, err = x.Exchange.Next(ctx, data)
		return done && err == nil, err
	})
	return reply, done, err
}
