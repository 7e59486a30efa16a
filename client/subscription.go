package client

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// Subscription is a wish for the messages of a Topic Filter. It lasts until it or its client is closed, or until a server refuses it: it is
// made again on each connection whose server does not know it any more.
type Subscription struct {
	client *Client
	filter string
	wish   mqtt.Subscription
	box    *mailbox
	ready  chan struct{} // closed when the server has answered for the first time
	done   chan struct{} // closed when the subscription is over

	// Session.mu guards all below.
	granted mqtt.QoS
	asked   bool // ready is closed
	over    bool // done is closed
	err     error
}

// wanted is a Topic Filter to which there are subscriptions: one at the server, whatever their number here.
type wanted struct {
	mqtt.Subscription
	rest    string // the filter without $share/{ShareName}/
	id      uint32 // Subscription Identifier
	subs    []*Subscription
	waiting bool  // in toAsk
	on      *Conn // that it was asked or granted on; nil when the server does not know it
	settled bool  // the answer has come
}

// subscriptions are those of a client. Session.mu guards them.
type subscriptions struct {
	all    map[string]*wanted // by filter
	order  []*wanted          // as they were made
	byID   map[uint32]*wanted
	tree   topic.Tree[*wanted, struct{}] // by filter without $share/{ShareName}/
	lastID uint32
	found  []topic.Entry[*wanted, struct{}] // to be used again

	toAsk []*wanted // SUBSCRIBEs that wait for the answers to others
	gone  []string  // filters that the server is to forget when it is there again
}

// mostIDs is the largest Subscription Identifier.
const mostIDs = 268_435_455

func (t *subscriptions) init() {
	t.all, t.byID = make(map[string]*wanted), make(map[uint32]*wanted)
}

// Subscribe asks for the messages of a Topic Filter, at QoS 1 unless an option says otherwise, and returns when the server has granted it.
// While there is no connection it waits for one. When ctx ends before, the wish is taken back.
//
// The handler is called with one message after the other in the order of their arrival, on a goroutine of the subscription's own; it may
// block, publish, subscribe and close. A message of QoS 1 or 2 is acknowledged when it returns. While it is busy messages wait,
// up to [Config.InboxBytes] for all subscriptions; see the package's documentation. With a nil handler messages wait for
// [Subscription.Messages].
//
// Several subscriptions may have the same filter: they share one at the server, with the highest QoS. A filter that the server can never
// accept is an error that wraps [mqtt.TopicFilterInvalid], a refusal a [ServerError].
func (c *Client) Subscribe(ctx context.Context, filter string, handler func(*Delivery), opts ...SubscribeOption) (*Subscription, error) {
	want := interest{Subscription: mqtt.Subscription{Filter: filter, QoS: mqtt.AtLeastOnce}}
	for _, o := range opts {
		want = o.ofSubscribe(want)
	}
	s, err := c.addSubscription(want, handler)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %q: %w", filter, err)
	}
	select {
	case <-s.ready:
		err = s.Err()
	case <-ctx.Done():
		err = s.giveUp(ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %q: %w", filter, err)
	}
	return s, nil
}

// addSubscription begins a subscription without waiting for the server.
func (c *Client) addSubscription(want interest, handler func(*Delivery)) (*Subscription, error) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if err := c.over(); err != nil {
		return nil, err
	}
	if err := c.checkWish(&want.Subscription); err != nil {
		return nil, err
	}
	s := &Subscription{
		client: c, filter: want.Filter, wish: want.Subscription, box: newMailbox(c.session, handler, want.manual),
		ready: make(chan struct{}), done: make(chan struct{}),
	}
	w, err := c.subs.add(s)
	if err != nil {
		return nil, err
	}
	c.claim(s, w)
	if handler != nil {
		c.handlers.Go(s.box.run)
	}
	if conn := c.session.conn; conn != nil {
		c.subs.ask(conn, w)
	}
	return s, nil
}

// checkWish reports what no server, or not the one that was there last, takes.
func (c *Client) checkWish(sub *mqtt.Subscription) error {
	if err := topic.ValidateFilter(sub.Filter, topic.Limits{}); err != nil {
		return fmt.Errorf("%w: %w", mqtt.TopicFilterInvalid, err)
	}
	if c.last.known {
		return c.last.limits.checkSubscription(sub, c.last.version)
	}
	return nil
}

// add notes a subscription, which must have the options of the others of its filter.
func (t *subscriptions) add(s *Subscription) (*wanted, error) {
	w := t.all[s.filter]
	if w == nil {
		w = &wanted{Subscription: s.wish}
		_, w.rest, _ = topic.ParseShare(s.filter)
		t.lastID = t.lastID%mostIDs + 1
		w.id = t.lastID
		t.all[s.filter], t.byID[w.id] = w, w
		t.order = append(t.order, w)
		t.tree.Set(w.rest, w, struct{}{})
	}
	same := s.wish
	same.QoS = w.QoS
	if same != w.Subscription {
		return nil, fmt.Errorf("%w: another subscription to this filter has other options", mqtt.ProtocolError)
	}
	w.QoS = max(w.QoS, s.wish.QoS)
	w.subs = append(w.subs, s)
	return w, nil
}

// drop forgets a filter.
func (t *subscriptions) drop(w *wanted) {
	delete(t.all, w.Filter)
	delete(t.byID, w.id)
	t.tree.Delete(w.rest, w)
	t.order = slices.DeleteFunc(t.order, func(o *wanted) bool { return o == w })
	t.toAsk = slices.DeleteFunc(t.toAsk, func(o *wanted) bool { return o == w })
}

// route implements keeper: it finds the mailboxes by Subscription Identifiers, so that overlapping subscriptions get each message once.
// Without them, and for what an earlier program has left in the session, it finds them by name.
func (c *Client) route(name string, ids []uint32, dst []*mailbox) []*mailbox {
	t := &c.subs
	for _, id := range ids {
		if w := t.byID[id]; w != nil && topic.Match(w.rest, name) {
			dst = w.appendBoxes(dst)
		}
	}
	if len(dst) == 0 {
		t.found, _ = t.tree.Match(name, t.found[:0])
		for _, e := range t.found {
			dst = e.Key.appendBoxes(dst)
		}
	}
	if len(dst) == 0 && c.rest != nil {
		dst = append(dst, c.rest)
	} else if len(dst) == 0 && c.parked != nil {
		dst = append(dst, c.parked)
	}
	return dst
}

// parkTime is how long messages of a session that outlives the program wait for somebody to subscribe to them, from the first connection on:
// the server sends them before the program can say who handles them.
const parkTime = 10 * time.Second

// park begins that time, holding mu.
func (c *Client) park() {
	c.parked = newMailbox(c.session, nil, true)
	c.parking = time.AfterFunc(parkTime, func() {
		c.session.mu.Lock()
		defer c.session.mu.Unlock()
		c.unpark()
	})
}

// unpark gives up what nobody has subscribed to.
func (c *Client) unpark() {
	if c.parked == nil {
		return
	}
	c.parking.Stop()
	if n := c.parked.drain(); n > 0 {
		c.past.Unhandled += uint64(n)
		c.set.log.Warn("messages of the session are for no subscription", "messages", n)
	}
	c.parked = nil
}

// claim gives a new subscription what has waited for it.
func (c *Client) claim(s *Subscription, w *wanted) {
	if c.parked == nil {
		return
	}
	waiting := c.parked.takeAll()
	for _, d := range waiting {
		to := c.parked
		if topic.Match(w.rest, d.Topic) {
			to = s.box
		}
		d.manual = to.manual
		to.put(d)
	}
}

func (w *wanted) appendBoxes(dst []*mailbox) []*mailbox {
	for _, s := range w.subs {
		dst = append(dst, s.box)
	}
	return dst
}

// resume makes the subscriptions of a new connection.
func (t *subscriptions) resume(conn *Conn, kept bool) {
	gone := t.gone
	t.gone, t.toAsk = nil, nil
	for _, filter := range gone {
		if kept && t.all[filter] == nil {
			t.unsubscribe(conn, filter)
		}
	}
	for _, w := range slices.Clone(t.order) { // one that this server does not take is dropped
		w.waiting = false
		if kept && w.settled && w.on != nil {
			w.on = conn
			continue
		}
		t.ask(conn, w)
	}
}

// ask sends a SUBSCRIBE, or keeps it back while many have no answer.
func (t *subscriptions) ask(conn *Conn, w *wanted) {
	if w.waiting {
		return
	}
	if len(conn.requests) >= requestLimit {
		w.waiting = true
		t.toAsk = append(t.toAsk, w)
		return
	}
	t.askNow(conn, w)
}

func (t *subscriptions) askNow(conn *Conn, w *wanted) {
	p := mqtt.Subscribe{Subscriptions: []mqtt.Subscription{w.Subscription}}
	if conn.version == mqtt.V5 && !conn.sending.noIdentifiers {
		p.Props = p.Props.WithInt(mqtt.SubscriptionIdentifier, w.id)
	}
	asked := slices.Clone(w.subs)
	r := newRequest(mqtt.SUBACK, []string{w.Filter})
	r.then = func(r *request) { t.answered(conn, w, asked, r) }
	err := conn.sending.checkSubscription(&w.Subscription, conn.version)
	if err == nil {
		w.on, w.settled = conn, false
		err = conn.sendNow(r, func(id uint16) []byte {
			p.PacketID = id
			return p.Append(nil, conn.version)
		})
	}
	if err != nil {
		t.refuse(w, asked, err)
	}
}

// answered takes the SUBACK, or the end of the connection.
func (t *subscriptions) answered(conn *Conn, w *wanted, asked []*Subscription, r *request) {
	switch {
	case r.codes == nil: // the connection has ended: the next one asks again
		return
	case r.err != nil:
		t.refuse(w, asked, r.err)
	default:
		w.settled = w.on == conn
		for _, s := range asked {
			s.grant(mqtt.QoS(r.codes[0]))
		}
	}
	for len(t.toAsk) > 0 && len(conn.requests) < requestLimit {
		next := t.toAsk[0]
		t.toAsk = t.toAsk[1:]
		next.waiting = false
		t.askNow(conn, next)
	}
}

// grant tells who waits that the server has agreed.
func (s *Subscription) grant(q mqtt.QoS) {
	s.granted = q
	s.answer()
}

func (s *Subscription) answer() {
	if !s.asked {
		s.asked = true
		close(s.ready)
	}
}

// refuse ends the subscriptions that a server does not want. Those that it was not asked for yet have a question of their own under way.
func (t *subscriptions) refuse(w *wanted, asked []*Subscription, err error) {
	for _, s := range asked {
		if !s.over && s.asked {
			s.client.set.log.Error("subscription is refused", "filter", s.filter, "reason", err)
		}
		w.remove(s)
		s.end(err)
	}
	if len(w.subs) == 0 && t.all[w.Filter] == w {
		t.drop(w)
	}
}

func (w *wanted) remove(s *Subscription) {
	w.subs = slices.DeleteFunc(w.subs, func(o *Subscription) bool { return o == s })
}

// end ends a subscription here. What waits for its handler is acknowledged: nobody wants it any more.
func (s *Subscription) end(err error) {
	if s.over {
		return
	}
	s.over, s.err = true, err
	s.answer()
	s.box.drain()
	s.box.close()
	close(s.done)
}

// closeAll ends all subscriptions because the client is over. What waits for handlers is left to the server.
func (t *subscriptions) closeAll(err error) {
	for _, w := range t.order {
		for _, s := range w.subs {
			s.box.discard()
			s.end(err)
		}
	}
	*t = subscriptions{}
	t.init()
}

// unsubscribe sends an UNSUBSCRIBE.
func (t *subscriptions) unsubscribe(conn *Conn, filter string) *request {
	p := mqtt.Unsubscribe{Filters: []string{filter}}
	r := newRequest(mqtt.UNSUBACK, p.Filters)
	r.then = func(r *request) {
		if r.codes == nil && t.all[filter] == nil {
			t.gone = append(t.gone, filter) // the connection has ended
		}
	}
	if err := conn.sendNow(r, func(id uint16) []byte {
		p.PacketID = id
		return p.Append(nil, conn.version)
	}); err != nil {
		r.fail(err)
	}
	return r
}

// giveUp takes a wish back whose answer nobody waits for any more.
func (s *Subscription) giveUp(err error) error {
	c := s.client
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	err = c.explain(err)
	s.leave()
	return err
}

// leave ends the subscription here and, if it was the last one of its filter, at the server. The request is nil when nothing is asked.
func (s *Subscription) leave() *request {
	t := &s.client.subs
	w := t.all[s.filter]
	if s.over || w == nil {
		return nil
	}
	w.remove(s)
	s.end(ErrClosed)
	if len(w.subs) > 0 {
		return nil
	}
	t.drop(w)
	switch conn := s.client.session.conn; {
	case w.on == nil:
		return nil
	case conn == nil:
		t.gone = append(t.gone, s.filter)
		return nil
	default:
		return t.unsubscribe(conn, s.filter)
	}
}

// Close ends the subscription: the handler is not called again, what waits for it is dropped. If no other has the same filter, the server
// is told, and Close returns when it has answered or ctx is done. While there is no connection it returns at once, and the server is told
// later.
func (s *Subscription) Close(ctx context.Context) error {
	s.client.session.mu.Lock()
	r := s.leave()
	s.client.session.mu.Unlock()
	if r == nil {
		return nil
	}
	select {
	case <-r.done:
		if r.codes != nil && r.err != nil {
			return fmt.Errorf("unsubscribe: %w", r.err)
		}
		return nil // or the connection has ended, and the next one will tell the server
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Filter returns the Topic Filter.
func (s *Subscription) Filter() string { return s.filter }

// QoS returns the highest QoS that the server has granted.
func (s *Subscription) QoS() mqtt.QoS {
	s.client.session.mu.Lock()
	defer s.client.session.mu.Unlock()
	return s.granted
}

// Done is closed when the subscription is over. Its handler may still run.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Err returns nil while the subscription lives and then why it is over: [ErrClosed], or a refusal.
func (s *Subscription) Err() error {
	s.client.session.mu.Lock()
	defer s.client.session.mu.Unlock()
	return s.err
}

// Messages iterates over the messages of a subscription without a handler, until ctx is done or the subscription is over. A message is good
// during its step of the loop, and acknowledged at the end of it. Several loops share the messages.
func (s *Subscription) Messages(ctx context.Context) iter.Seq[*Delivery] {
	if s.box.handle != nil {
		panic("client: messages of a subscription that has a handler")
	}
	return func(yield func(*Delivery) bool) {
		stop := context.AfterFunc(ctx, s.box.wake)
		defer stop()
		var d *Delivery
		for {
			if d = s.box.nextUntil(ctx, d); d == nil {
				return
			}
			if !yield(d) {
				s.box.last(d)
				return
			}
		}
	}
}
