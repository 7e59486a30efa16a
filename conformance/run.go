package conformance

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Target says where a broker listens.
type Target struct {
	TCP string // host:port
	WS  string // ws://host:port/path
}

// Run runs c against the target, over "tcp" or "ws", in one version. It blocks
// until the case is over and leaves no connection open. The error names file,
// line and what came instead.
func (c *Case) Run(ctx context.Context, target Target, transport string, v Version) error {
	r := &run{target: target, transport: transport, version: v, peers: map[string]*peer{}}
	r.vars = map[string]string{"id": uniqueID()}
	defer r.closeAll()
	steps := c.stepsIn(v)
	for i := 0; i < len(steps); {
		n, err := r.step(ctx, steps[i:])
		if err != nil {
			s := steps[i]
			return fmt.Errorf("%s:%d: %s\n\t%w\n\t($id is %s, version %s, over %s)", c.File, s.Line, s.Text, err, r.vars["id"], v, transport)
		}
		i += n
	}
	if err := r.quiet(); err != nil {
		return fmt.Errorf("%s:%d: %s\n\tat the end: %w", c.File, c.Line, c.Title, err)
	}
	return nil
}

// stepsIn returns the steps that are done in that version.
func (c *Case) stepsIn(v Version) []Step {
	return slices.DeleteFunc(slices.Clone(c.Steps), func(s Step) bool {
		return len(s.When) > 0 && !slices.Contains(s.When, v)
	})
}

var cases atomic.Uint32

// runID makes the names of this run differ from those of the last one against
// a broker that remembers.
var runID = rand.Text()[:3]

// uniqueID returns six letters and digits.
func uniqueID() string {
	return fmt.Sprintf("%s%03x", runID, cases.Add(1)&0xFFF)
}

// run is the state of a case.
type run struct {
	target    Target
	transport string
	version   Version
	peers     map[string]*peer
	vars      map[string]string
	refused   error  // what the last open met
	protocol  string // what the last open agreed on
}

// step executes the first of steps, or several expectations in any order, and
// returns how many it took.
func (r *run) step(ctx context.Context, steps []Step) (int, error) {
	s := steps[0]
	if r.refused != nil && s.Verb != "refused" {
		return 0, r.refused
	}
	switch s.Verb {
	case "connect":
		return 1, r.connect(ctx, s)
	case "open":
		return 1, r.open(ctx, s)
	case "wait":
		return 1, r.wait(ctx, s)
	case "protocol", "refused":
		return 1, r.upgrade(s)
	case "<?":
		return r.anyOrder(steps)
	}
	peers, err := r.named(s.Peers)
	if err != nil {
		return 0, err
	}
	switch s.Verb {
	case "close":
		peers[0].close()
		delete(r.peers, s.Peers[0])
	case "split":
		peers[0].split = true
	case ">":
		return 1, r.send(peers[0], s.Words)
	case "<":
		return 1, r.expect(peers, s)
	}
	return 1, nil
}

func (r *run) named(names []string) ([]*peer, error) {
	peers := make([]*peer, len(names))
	for i, name := range names {
		if peers[i] = r.peers[name]; peers[i] == nil {
			return nil, fmt.Errorf("there is no connection %q", name)
		}
	}
	return peers, nil
}

func (r *run) wait(ctx context.Context, s Step) error {
	d, err := s.duration()
	if err != nil {
		return err
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// open dials. A connection of the same name that is still open stays open, so
// that a case can watch it being taken over under another name; it is dropped
// at the end.
func (r *run) open(ctx context.Context, s Step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	name, version := s.Peers[0], r.version
	if s.Version != 0 {
		version = s.Version
	}
	w, err := r.dial(ctx, s.Words)
	if r.refused = err; err != nil && r.transport == "ws" {
		return nil // the next step tells whether that is right
	} else if err != nil {
		return err
	}
	if old := r.peers[name]; old != nil && !old.closed {
		w.drop()
		return fmt.Errorf("connection %q is open already", name)
	}
	r.peers[name] = newPeer(name, version, w)
	return nil
}

func (r *run) dial(ctx context.Context, words []string) (wire, error) {
	if r.transport == "tcp" {
		return dialTCP(ctx, r.target.TCP)
	}
	offer := []string{"mqtt"}
	for _, w := range words {
		if list, ok := strings.CutPrefix(w, "offer="); ok {
			text, err := textOf(list, r.vars)
			if err != nil {
				return nil, err
			}
			offer = strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })
		}
	}
	w, err := dialWS(ctx, r.target.WS, offer)
	if err != nil {
		return nil, err
	}
	if r.protocol = w.ws.Subprotocol(); r.protocol == "" {
		w.drop()
		return nil, errNoProtocol
	}
	return w, nil
}

// upgrade judges how the last WebSocket handshake went.
func (r *run) upgrade(s Step) error {
	switch {
	case s.Verb == "refused" && r.refused == nil:
		return fmt.Errorf("the server accepted")
	case s.Verb == "refused":
		r.refused = nil
		return nil
	}
	want, err := textOf(s.Words[0], r.vars)
	if err == nil && want != r.protocol {
		err = fmt.Errorf("the server selected %q", r.protocol)
	}
	return err
}

// connect opens, sends CONNECT and expects to be accepted. The field sp is of
// the CONNACK.
func (r *run) connect(ctx context.Context, s Step) error {
	named, accepted, sent := connectWords(s.Words)
	if !named {
		sent = append(sent, "id="+r.vars["id"]+s.Peers[0])
	}
	s.Words = nil
	if err := r.open(ctx, s); err != nil {
		return err
	}
	p := r.peers[s.Peers[0]]
	if r.refused != nil {
		return r.refused
	}
	if err := r.send(p, append([]string{"CONNECT"}, sent...)); err != nil {
		return err
	}
	if p.version == V31 { // which has no Session Present
		accepted = slices.DeleteFunc(accepted, func(w string) bool { return w == "sp=1" })
	}
	s.Words = append([]string{"CONNACK", "00"}, accepted...)
	return r.expect([]*peer{p}, s)
}

func (r *run) send(p *peer, words []string) error {
	if words[0] == "text" {
		text, err := textOf(words[1], r.vars)
		if err != nil {
			return err
		}
		return p.wire.text(text)
	}
	if slices.Contains(packetNames, words[0]) {
		d, err := describe(words[0], words[1:], r.vars)
		if err != nil {
			return err
		}
		if d.name == "CONNECT" {
			p.watch.connect(p.version, d)
		} else {
			p.watch.sent(d)
		}
	}
	b, err := encodeWords(p.version, words, r.vars)
	if err != nil {
		return err
	}
	p.send(b)
	return nil
}

func (r *run) expect(peers []*peer, s Step) error {
	e, err := parseExpectation(s.Words, r.vars)
	if err != nil {
		return err
	}
	if e.event == "silence" {
		return silent(peers[0])
	}
	p, got, err := next(peers, time.After(patience))
	switch {
	case err != nil:
		return err
	case got == nil && (e.event == "EOF" || e.maybe):
		return nil
	case e.event == "EOF":
		return fmt.Errorf("got %s", got)
	case got == nil:
		return fmt.Errorf("the server closed %q", p.name)
	}
	if err := e.match(got, r.vars); err != nil {
		return fmt.Errorf("got %s: %w", got, err)
	}
	if len(peers) == 2 {
		r.judge(p, peers)
	}
	return nil
}

// judge names the two of an either-or.
func (r *run) judge(winner *peer, peers []*peer) {
	loser := peers[0]
	if loser == winner {
		loser = peers[1]
	}
	r.peers["winner"], r.peers["loser"] = winner, loser
}

// anyOrder takes the expectations at the head of steps that are on the same
// connection, in the order in which the packets come.
func (r *run) anyOrder(steps []Step) (int, error) {
	n := 1
	for n < len(steps) && steps[n].Verb == "<?" && slices.Equal(steps[n].Peers, steps[0].Peers) {
		n++
	}
	peers, err := r.named(steps[0].Peers)
	if err != nil {
		return 0, err
	}
	open := slices.Clone(steps[:n])
	for len(open) > 0 {
		_, got, err := next(peers, time.After(patience))
		if err != nil {
			return 0, err
		}
		i := r.matching(open, got)
		if i < 0 {
			return 0, fmt.Errorf("got %v, which none of %d lines expects", got, len(open))
		}
		open = slices.Delete(open, i, i+1)
	}
	return n, nil
}

func (r *run) matching(open []Step, got *packet) int {
	return slices.IndexFunc(open, func(s Step) bool {
		e, err := parseExpectation(s.Words, r.vars)
		return err == nil && got != nil && e.match(got, r.vars) == nil
	})
}

// silent proves that nothing was sent before the answer to a PINGREQ.
func silent(p *peer) error {
	p.send([]byte{0xC0, 0})
	_, got, err := next([]*peer{p}, time.After(patience))
	switch {
	case err != nil:
		return err
	case got == nil:
		return fmt.Errorf("the server closed %q", p.name)
	case got.name != "PINGRESP":
		return fmt.Errorf("got %s instead of silence", got)
	}
	return nil
}

// quiet checks that no open connection has anything unread.
func (r *run) quiet() error {
	delete(r.peers, "winner") // second names
	delete(r.peers, "loser")
	for _, name := range slices.Sorted(maps.Keys(r.peers)) {
		p := r.peers[name]
		if p.closed || !p.watch.connected || p.watch.ended {
			continue
		}
		if err := silent(p); err != nil {
			return fmt.Errorf("on %q: %w", name, err)
		}
	}
	return nil
}

func (r *run) closeAll() {
	for _, p := range r.peers {
		p.close()
		for range p.incoming { // until the reader has ended
		}
	}
}
