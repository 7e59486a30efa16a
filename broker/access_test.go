package broker

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// rules is an Authorizer that answers "action topic" by its table, and yes to everything else.
type rules map[string]error

func (z rules) Authorize(_ *ClientInfo, a Action, topic string) error { return z[a.String()+" "+topic] }

// changing is an Authorizer whose rules can be replaced. It counts the questions.
type changing struct {
	mu    sync.Mutex
	rules rules
	asked map[string]int
}

func (z *changing) Authorize(c *ClientInfo, a Action, topic string) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.asked == nil {
		z.asked = make(map[string]int)
	}
	z.asked[a.String()+" "+topic]++
	return z.rules.Authorize(c, a, topic)
}

func (z *changing) set(r rules) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.rules = r
}

func (z *changing) questions(about string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[about]
}

// deny is a rule's answer.
var deny error = mqtt.NotAuthorized

// After Reauthorize, subscriptions that are not allowed any more have ended, what waits for them is gone, and writing is
// asked about anew; everything else goes on.
func TestReauthorize(t *testing.T) {
	z := &changing{}
	both(t, Config{Authorizer: z, Limits: Limits{MaxInflight: 1}}, func(r *rig) {
		z.set(nil)
		c, away, pub := r.connect(mqtt.V5, "c"), r.connect(mqtt.V5, "away", lasting(60)), r.connect(mqtt.V5, "p")
		for _, x := range []*client{c, away} {
			x.subscribe(sub("a", 1), sub("b", 1), sub("$share/g/a", 1))
		}
		away.drop()
		pub.publish("a", "sent", 1)
		first := c.message()
		pub.publish("a", "waits", 1)
		pub.publish("b", "free", 1)
		z.set(rules{"subscribe a": deny, "read a": deny, "write a": deny})
		if code := pub.publishPacket(post("a", "cached", 1)); code.Failed() {
			r.Errorf("before: %v", code) // decisions about writing are remembered
		}
		r.b.Reauthorize()
		if code := pub.publishPacket(post("a", "x", 1)); code != mqtt.NotAuthorized {
			r.Errorf("after: %v", code)
		}
		c.ack(mqtt.PUBACK, first.PacketID, 0)
		c.want("free")
		c.silent()
		if subs := r.b.Subscriptions("c"); len(subs) != 1 || subs[0].Filter != "b" {
			r.Errorf("subscriptions %v", subs)
		}
		away = r.connect(mqtt.V5, "away", resume)
		away.want("free")
		away.silent()
		if st := r.b.Stats(); st.Subscriptions != 2 || st.QueuedMessages != 0 || st.Dropped[DropDenied] == 0 {
			r.Errorf("%d subscriptions, %d queued, %d denied", st.Subscriptions, st.QueuedMessages, st.Dropped[DropDenied])
		}
		z.set(nil)
		r.b.Reauthorize()
		c.subscribe(sub("a", 1))
		pub.publish("a", "again", 1)
		c.want("again")
	})
}

// A decision about writing is asked for once for each name, whether it comes by name or by alias.
func TestWriteDecisionsRemembered(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		z := &changing{rules: rules{"write no": deny}}
		c := start(t, Config{Authorizer: z}).connect(mqtt.V5, "c")
		for range 10 {
			for alias, name := range []string{"yes", "no"} {
				m := mqtt.Publish{Topic: []byte(name), HasAlias: true, Alias: uint16(alias + 1), QoS: 1}
				first := c.publishPacket(m)
				m.Topic = nil
				if code := c.publishPacket(m); code != first || code.Failed() != (name == "no") {
					t.Errorf("%s: %v, %v", name, first, code)
				}
			}
		}
		for _, name := range []string{"yes", "no"} {
			if n := z.questions("write " + name); n != 1 {
				t.Errorf("%s: asked %d times", name, n)
			}
		}
	})
}

// A name that would need too much memory to remember is asked about, too.
func TestManyNames(t *testing.T) {
	z := &changing{rules: rules{"write n/7": deny}}
	bubble(t, Config{Authorizer: z}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		for range 3 {
			for i := range 3 * topicCacheSize {
				name := fmt.Sprint("n/", i)
				if code := c.publishPacket(post(name, "x", 1)); code.Failed() != (i == 7) {
					t.Errorf("%s: %v", name, code)
				}
			}
		}
		if n := len(r.outbox("c").topics); n > topicCacheSize+1 {
			t.Errorf("%d names are remembered", n)
		}
	})
}

// covering may read everything below "open/" at once.
type covering struct{ *changing }

func (covering) CoversRead(_ *ClientInfo, filter string) bool {
	return strings.HasPrefix(filter, "open/")
}

// Deliveries are checked one by one, unless the Authorizer covers the filter.
func TestDeliveryChecked(t *testing.T) {
	z := covering{&changing{rules: rules{"read a/no": deny, "read open/no": deny}}}
	bubble(t, Config{Authorizer: z}, func(r *rig) {
		c, pub := r.connect(mqtt.V5, "c"), r.connect(mqtt.V5, "p")
		c.subscribe(sub("a/+", 2), sub("open/+", 2))
		for _, name := range []string{"a/no", "a/yes", "open/no", "open/yes"} {
			for qos := range mqtt.QoS(3) {
				pub.publish(name, name, qos)
			}
		}
		for _, name := range []string{"a/yes", "open/no", "open/yes"} {
			c.want(name, name, name)
		}
		c.silent()
		if n := z.questions("read open/yes"); n != 0 {
			t.Errorf("asked %d times about what is covered", n)
		}
		if n := r.b.Stats().Dropped[DropDenied]; n != 3 {
			t.Errorf("%d denied", n)
		}
	})
}

// A Will needs permission when it is given and when it is published.
func TestWillNeedsPermission(t *testing.T) {
	bubbles(t, func(t *testing.T, start starter) {
		z := &changing{rules: rules{"write no": deny}}
		r := start(t, Config{Authorizer: z})
		watch := r.connect(mqtt.V5, "w")
		watch.subscribe(sub("#", 1))
		if _, code := r.try(mqtt.V5, "c", leaving(mqtt.Will{Topic: "no"})); code != mqtt.NotAuthorized {
			t.Errorf("CONNECT: %v", code)
		}
		c := r.connect(mqtt.V5, "c", leaving(mqtt.Will{Topic: "later"}))
		z.set(rules{"write later": deny})
		c.drop()
		watch.silent()
	})
}

// reply is an Authorizer with one answer.
type reply struct{ err error }

func (z reply) Authorize(*ClientInfo, Action, string) error { return z.err }

func TestDecide(t *testing.T) {
	yes, no, none := reply{nil}, reply{mqtt.NotAuthorized}, reply{fmt.Errorf("table 3: %w", ErrNoOpinion)}
	for _, tc := range []struct {
		own, all Authorizer
		allowed  bool
	}{
		{nil, nil, true}, {nil, yes, true}, {nil, no, false}, {nil, none, false}, {yes, nil, true}, {no, nil, false}, {none, nil, false},
		{yes, yes, true}, {yes, no, false}, {no, yes, false}, {yes, none, true}, {none, yes, true}, {none, none, false}, {none, no, false},
	} {
		b := &Broker{config: Config{Authorizer: tc.all}}
		if err := b.decide(&ClientInfo{Access: tc.own}, Read, "a"); (err == nil) != tc.allowed {
			t.Errorf("%v, %v: %v", tc.own, tc.all, err)
		}
		if err := b.decide(nil, Read, "a"); err != nil {
			t.Errorf("the program itself: %v", err)
		}
	}
}

// slowRules holds up the question about one filter until the rules have changed.
type slowRules struct {
	changing
	asked, answer chan struct{}
}

func (z *slowRules) Authorize(c *ClientInfo, a Action, topic string) error {
	err := z.changing.Authorize(c, a, topic)
	if a == Subscribe && z.asked != nil {
		close(z.asked)
		z.asked = nil
		<-z.answer
	}
	return err
}

// A subscription that is decided about while permissions change is decided about again.
func TestSubscribeWhileRulesChange(t *testing.T) {
	z := &slowRules{asked: make(chan struct{}), answer: make(chan struct{})}
	r := newTCPRig(t, Config{Authorizer: z})
	asked := z.asked
	c := r.connect(mqtt.V5, "c")
	c.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{sub("a", 1)}}).Append(nil, mqtt.V5))
	<-asked
	z.set(rules{"subscribe a": deny})
	r.b.Reauthorize()
	close(z.answer)
	expect[mqtt.Suback](c)
	if subs := r.b.Subscriptions("c"); len(subs) != 0 {
		t.Errorf("subscriptions %v", subs)
	}
}

// A replay stops when its subscription is not allowed any more.
func TestReauthorizeDuringReplay(t *testing.T) {
	z := &changing{}
	both(t, Config{Authorizer: z}, func(r *rig) {
		z.set(nil)
		r.keepAll(300, 1)
		c := r.connect(mqtt.V5, "c", with(mqtt.ReceiveMaximum, 5))
		c.subscribe(sub("r/+", 1))
		first := make([]mqtt.Publish, 5)
		for i := range first {
			first[i] = c.message()
		}
		z.set(rules{"subscribe r/+": deny})
		r.b.Reauthorize()
		for _, m := range first {
			c.ack(mqtt.PUBACK, m.PacketID, 0)
		}
		c.silent()
	})
}

// partly is an Authorizer that covers everything until it does not.
type partly struct {
	*changing
	covers atomic.Bool
}

func (z *partly) CoversRead(*ClientInfo, string) bool { return z.covers.Load() }

// A replay that was covered is checked message by message once it is not.
func TestCoverEndsDuringReplay(t *testing.T) {
	z := &partly{changing: &changing{}}
	bubble(t, Config{Authorizer: z}, func(r *rig) {
		z.covers.Store(true)
		r.keepAll(300, 1)
		c := r.connect(mqtt.V5, "c", with(mqtt.ReceiveMaximum, 5))
		c.subscribe(sub("r/+", 1))
		first := make([]mqtt.Publish, 5)
		for i := range first {
			first[i] = c.message()
		}
		z.covers.Store(false)
		z.set(rules{"read r/99": deny})
		r.b.Reauthorize()
		for _, m := range first {
			c.ack(mqtt.PUBACK, m.PacketID, 0)
		}
		for range 294 {
			if m := c.take(); string(m.Topic) == "r/99" {
				t.Error("r/99 came")
			}
		}
		c.silent()
	})
}
