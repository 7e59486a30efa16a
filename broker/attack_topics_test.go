package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

const deepest = 65_535 // bytes, and so levels plus one, of the longest Topic Name

// TestA07HostileNames: Topic Names that no rule allows are refused as malformed, and names with too many levels or bytes for
// us as invalid, in a PUBLISH of each QoS, retained or not, in a Will, and in both kinds of requests for subscriptions.
func TestA07HostileNames(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{TopicBytes: 10_000}})
	names := map[string]struct {
		name   string
		code   mqtt.ReasonCode // what the publisher hears
		filter bool            // is good as a filter
	}{
		"NUL":          {"a7/\x00/x", mqtt.MalformedPacket, false},
		"surrogate":    {"a7/\xED\xA0\x80", mqtt.MalformedPacket, false},
		"not UTF-8":    {"a7/\xFF", mqtt.MalformedPacket, false},
		"overlong":     {"a7/\xC0\xAF", mqtt.MalformedPacket, false},
		"plus":         {"a7/+/x", mqtt.MalformedPacket, true},
		"hash":         {"a7/#", mqtt.MalformedPacket, true},
		"hash alone":   {"#", mqtt.MalformedPacket, true},
		"hash inside":  {"a7#", mqtt.MalformedPacket, false},
		"plus inside":  {"a7+/x", mqtt.MalformedPacket, false},
		"201 levels":   {strings.Repeat("/", 200), mqtt.TopicNameInvalid, false},
		"10,001 bytes": {strings.Repeat("x", 10_001), mqtt.TopicNameInvalid, false},
		"slashes":      {strings.Repeat("/", deepest), mqtt.TopicNameInvalid, false},
		"levels":       {strings.Repeat("a/", deepest/2), mqtt.TopicNameInvalid, false},
	}
	for what, n := range names {
		for _, v := range attackVersions {
			a.hostilePublish(v, what, n.name, n.code)
			a.hostileWill(v, what, n.name, n.code)
			a.hostileFilter(v, what, n.name, n.filter)
		}
	}
	for _, v := range attackVersions {
		a.hostileWill(v, "nothing", "", mqtt.MalformedPacket)
		f := a.login(v, "a7")
		f.throw((&mqtt.Publish{Payload: []byte("x")}).Append(nil, v))
		f.mustEnd("an empty Topic Name", mqtt.ProtocolError)
		a.hostileFilter(v, "nothing", "", false)
	}
	if n := a.broker.Stats().Retained; n != 0 {
		t.Errorf("%d messages are retained", n)
	}
}

func (a *arena) hostilePublish(v mqtt.Version, what, name string, code mqtt.ReasonCode) {
	a.Helper()
	for qos := range mqtt.QoS(3) {
		f := a.login(v, "a7")
		p := mqtt.Publish{QoS: qos, Retain: qos == 1, PacketID: 7, Topic: []byte(name), Payload: []byte("x")}
		f.throw(p.Append(nil, v))
		f.mustEnd(fmt.Sprintf("PUBLISH of QoS %d to a name with %s", qos, what), code)
	}
}

func (a *arena) hostileWill(v mqtt.Version, what, name string, code mqtt.ReasonCode) {
	a.Helper()
	if len(name) > 60_000 {
		return // does not fit into a CONNECT
	}
	c := hello(v, "a7")
	c.Will = &mqtt.Will{Topic: name, Payload: []byte("x"), Retain: true}
	f, ack := a.try(c)
	if ack.Code == mqtt.Success || v == mqtt.V5 && ack.Code != code {
		a.Errorf("MQTT %s: Will to a name with %s: 0x%02X", v, what, byte(ack.Code))
	}
	f.end()
}

func (a *arena) hostileFilter(v mqtt.Version, what, filter string, good bool) {
	a.Helper()
	f := a.login(v, "a7")
	s := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: filter}}}
	f.throw(s.Append(nil, v))
	p, err := f.read()
	switch {
	case attackEnded(err) && !good, err == nil && p.Type == mqtt.DISCONNECT && !good:
	case err != nil:
		a.Errorf("MQTT %s: SUBSCRIBE with %s: %v", v, what, err)
	case good != (mqtt.ReasonCode(p.Body[len(p.Body)-1]) == 0):
		a.Errorf("MQTT %s: SUBSCRIBE with %s: % x", v, what, p.Body)
	case !good && v != mqtt.V5:
		a.Errorf("MQTT %s: SUBSCRIBE with %s: answered, want the end", v, what)
	}
	u := mqtt.Unsubscribe{PacketID: 1, Filters: []string{filter}}
	f.throw(u.Append(nil, v))
	_ = f.nc.Close()
}

// TestA07Depth: where the operator allows any number of levels, the deepest names and the filters that branch most
// are slow at worst as their bytes are: the stack holds, and the work does not grow with the square of the depth or with the
// number of ways through the filters.
func TestA07Depth(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{TopicLevels: broker.Unlimited}})
	f := a.login(mqtt.V5, "a7")
	normal := a.workload(f, "flat/"+strings.Repeat("x", deepest-len("flat/")), "flat/+")

	slashes, levels := strings.Repeat("/", deepest), strings.Repeat("a/", deepest/2)
	deep := map[string][2]string{
		"slashes by hash":      {slashes, "/#"},
		"slashes by plus":      {slashes, strings.Repeat("+/", deepest/2) + "#"},
		"levels by themselves": {levels, levels},
		"levels by plus":       {levels, strings.Repeat("+/", deepest/2)},
		"half wild":            {levels, strings.Repeat("a/+/", deepest/4-1) + "#"},
	}
	for what, d := range deep {
		if took := a.workload(f, d[0], d[1]); took > 500*normal {
			t.Errorf("%s: took %v, a name of as many bytes in two levels %v", what, took, normal)
		}
	}
	for i := range 16 { // 2^16 ways through the filters, one of which matches
		var filter strings.Builder
		for j := range 16 {
			filter.WriteString(map[bool]string{true: "+/", false: "a/"}[i>>(j%4)&1 == 1])
		}
		f.subscribe(filter.String()+"#", mqtt.AtMostOnce, 0)
	}
	if took := a.workload(f, levels, "a/+/#"); took > 500*normal {
		t.Errorf("filters that branch: took %v, normal %v", took, normal)
	}
}

// workload subscribes, publishes with and without RETAIN, subscribes again for the retained message, deletes that, and
// unsubscribes. It returns the shortest time of three.
func (a *arena) workload(f *foe, name, filter string) time.Duration {
	a.Helper()
	best := attackPatience
	for range 3 {
		start := time.Now()
		f.subscribe(filter, mqtt.AtMostOnce, 0)
		f.publish(name, "live", mqtt.AtMostOnce, true)
		f.message(false)
		f.throw((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: filter}}}).Append(nil, f.version))
		f.expect(mqtt.SUBACK)
		if m := f.message(false); string(m.Topic) != name || !m.Retain {
			a.Fatalf("retained message of a deep topic: %d bytes of topic, retain %t", len(m.Topic), m.Retain)
		}
		f.publish(name, "", mqtt.AtMostOnce, true)
		f.message(false)
		f.throw((&mqtt.Unsubscribe{PacketID: 1, Filters: []string{filter}}).Append(nil, f.version))
		f.expect(mqtt.UNSUBACK)
		best = min(best, time.Since(start))
	}
	return best
}

// TestA07SubscriptionStorm: the attacker makes as many subscriptions as fit into a packet, with retained messages due for
// them, reads nothing, and sends the packet again, so that every walk through the retained messages is replaced. That costs
// about what the first packet cost, and whoever publishes to the attacker's topics is not held up.
func TestA07SubscriptionStorm(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{OutboxBytes: 64 << 10, PacketSize: 2 << 20, Subscriptions: broker.Unlimited}})
	pub := a.login(mqtt.V5, "writer")
	for i := range 64 {
		pub.publish(fmt.Sprint("r/", i), strings.Repeat("x", 128<<10), mqtt.AtLeastOnce, true)
	}
	f := a.login(mqtt.V311, "a7")
	all := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: "r/#"}}}
	for i := range 180_000 {
		all.Subscriptions = append(all.Subscriptions, mqtt.Subscription{Filter: fmt.Sprint("r/", i)})
	}
	storm := all.Append(nil, mqtt.V311)
	before := memory()
	var took [2]time.Duration
	for i := range took {
		start := time.Now()
		f.throw(storm)
		f.until(mqtt.SUBACK)
		took[i] = time.Since(start)
		pub.publish("r/0", "live", mqtt.AtLeastOnce, false)
	}
	if took[1] > 20*took[0] {
		t.Errorf("180,000 subscriptions took %v, the same again %v", took[0], took[1])
	}
	a.grownLess("180,000 subscriptions, twice", before, 256<<20)
}

// TestA07ManyOverlaps: the attacker makes thousands of subscriptions that all match one topic, each with an identifier.
// A message for it still costs in proportion: one copy with all identifiers, or none when that is too large for the client.
func TestA07ManyOverlaps(t *testing.T) {
	a := newArena(t, broker.Config{})
	f := a.login(mqtt.V5, "a7")
	const many = 4096
	name := strings.TrimSuffix(strings.Repeat("a/", 12), "/")
	for i := range many {
		levels := strings.Split(name, "/")
		for j := range levels {
			if i>>j&1 == 1 {
				levels[j] = "+"
			}
		}
		s := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: strings.Join(levels, "/")}}}
		s.Props = s.Props.WithInt(mqtt.SubscriptionIdentifier, uint32(i+1))
		f.throw(s.Append(nil, mqtt.V5))
		f.expect(mqtt.SUBACK)
	}
	pub := a.login(mqtt.V5, "writer")
	const messages = 100
	before := allocated()
	for range messages {
		pub.publish(name, "x", mqtt.AtLeastOnce, false)
	}
	if each := (allocated() - before) / messages; each > 1<<20 {
		t.Errorf("a message for %d overlapping subscriptions allocates %d KiB", many, each>>10)
	}
	for range messages {
		m := f.message(false)
		seen := make(map[uint32]bool)
		for _, id := range m.IDs {
			seen[id] = true
		}
		if len(m.IDs) != many || len(seen) != many {
			t.Fatalf("%d identifiers, %d different, want %d", len(m.IDs), len(seen), many)
		}
	}
	f.silent("a second copy")
}

// TestA13ReservedTopics: the attacker publishes to topics of the server, in every QoS, retained, by alias and as a Will,
// and is refused; nobody who subscribed to them hears anything, and what the server retained there stays.
func TestA13ReservedTopics(t *testing.T) {
	a := newArena(t, broker.Config{DollarTopics: []string{"$SYS", "$share", "$open"}})
	own := &mqtt.Message{Topic: "$SYS/broker/version", Payload: []byte("magpie"), Retain: true}
	if err := a.broker.Publish(own); err != nil {
		t.Fatal(err)
	}
	names := []string{"$SYS/broker/version", "$SYS", "$share/group/a13", "$share", "$queue/x", "$MQTT.sess", "$", "$/", "$internal/x"}
	reader := a.login(mqtt.V5, "reader")
	for _, filter := range []string{"$SYS/+/+/x", "$queue/#", "$internal/#", "$/#", "$MQTT.sess", "$share/g/a13", "+/+/version/x"} {
		reader.trySubscribe(filter, mqtt.AtLeastOnce)
	}
	for _, v := range attackVersions {
		for _, name := range names {
			a.publishReserved(v, name)
			c := hello(v, "a13-will")
			c.Will = &mqtt.Will{Topic: name, Payload: []byte("forged"), Retain: true, QoS: mqtt.ExactlyOnce}
			if _, ack := a.try(c); ack.Code != mqtt.NotAuthorized {
				t.Errorf("MQTT %s: Will to %s: 0x%02X", v, name, byte(ack.Code))
			}
		}
	}
	reader.silent("a message to a topic of the server")
	if m := a.broker.RetainedMessage(own.Topic); m == nil || string(m.Payload) != "magpie" {
		t.Errorf("the retained message of the server is now %v", m)
	}
	if n := a.broker.Stats().Retained; n != 1 {
		t.Errorf("%d messages are retained, want the server's one", n)
	}
	open := a.login(mqtt.V5, "a13")
	reader.subscribe("$open/#", mqtt.AtMostOnce, 0)
	open.publish("$open/x", "welcome", mqtt.AtMostOnce, false)
	if m := reader.message(true); string(m.Topic) != "$open/x" {
		t.Errorf("reader got %s", m.Topic)
	}
}

func (a *arena) publishReserved(v mqtt.Version, name string) {
	a.Helper()
	f := a.login(v, "a13")
	for qos := range mqtt.QoS(3) {
		for _, payload := range []string{"forged", ""} { // an empty one would delete what is retained
			code := f.publish(name, payload, qos, true)
			if v == mqtt.V5 && qos > 0 && code != mqtt.NotAuthorized {
				a.Errorf("PUBLISH of QoS %d to %s: 0x%02X", qos, name, byte(code))
			}
		}
	}
	if v != mqtt.V5 {
		f.alive(name)
		return
	}
	f.publishPacket(mqtt.Publish{Topic: []byte(name), HasAlias: true, Alias: 1, Payload: []byte("forged")})
	if code := f.publishPacket(mqtt.Publish{QoS: 1, HasAlias: true, Alias: 1, Payload: []byte("forged")}); code != mqtt.NotAuthorized {
		a.Errorf("PUBLISH to an alias of %s: 0x%02X", name, byte(code))
	}
	f.alive(name)
}

// TestA17Aliases: Topic Alias 0, one above the maximum, one that stands for nothing, one of an earlier connection. Each ends
// the connection with the code for it. An alias stands for what it was set to last, also when that was refused.
func TestA17Aliases(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{TopicAliases: 8}})
	reader := a.login(mqtt.V5, "reader")
	reader.subscribe("a17/#", mqtt.AtMostOnce, 0)
	alias := func(name string, n uint16) []byte {
		return (&mqtt.Publish{Topic: []byte(name), HasAlias: true, Alias: n, Payload: []byte(name)}).Append(nil, mqtt.V5)
	}
	for what, c := range map[string]struct {
		packet []byte
		code   mqtt.ReasonCode
	}{
		"alias 0":               {alias("a17/x", 0), mqtt.TopicAliasInvalid},
		"alias 0 without name":  {alias("", 0), mqtt.TopicAliasInvalid},
		"alias 9 of 8":          {alias("a17/x", 9), mqtt.TopicAliasInvalid},
		"alias 65535":           {alias("a17/x", 65_535), mqtt.TopicAliasInvalid},
		"alias 9 without name":  {alias("", 9), mqtt.TopicAliasInvalid},
		"alias that was unset":  {alias("", 8), mqtt.ProtocolError},
		"alias for a bad name":  {alias("a17/#", 1), mqtt.MalformedPacket},
		"alias before it named": {append(alias("", 2), alias("a17/x", 2)...), mqtt.ProtocolError},
	} {
		f := a.login(mqtt.V5, "a17")
		f.throw(c.packet)
		f.mustEnd(what, c.code)
	}
	f := a.login(mqtt.V5, "a17")
	f.throw(append(alias("a17/1", 1), alias("a17/2", 1)...))
	f.throw(alias("", 1))
	for _, want := range []string{"a17/1", "a17/2", "a17/2"} {
		if m := reader.message(false); string(m.Topic) != want {
			t.Errorf("received %s, want %s", m.Topic, want)
		}
	}
	reader.silent("anything else")
	c := hello(mqtt.V5, "a17") // takes over: the aliases are gone
	c.CleanStart = false
	f = a.loginAs(c)
	f.throw(alias("", 1))
	f.mustEnd("an alias of the connection before", mqtt.ProtocolError)
}

// TestA17OutboundTable: the client allows 65,535 aliases to be set, and 20,000 topics are sent to it. The broker's table
// for it stays at its own limit, and every message says its topic, by name or by an alias given before.
func TestA17OutboundTable(t *testing.T) {
	a := newArena(t, broker.Config{Limits: broker.Limits{TopicAliases: 8, OutboxBytes: broker.Unlimited}})
	c := hello(mqtt.V5, "a17")
	c.Props = c.Props.WithInt(mqtt.TopicAliasMaximum, 65_535)
	f := a.loginAs(c)
	f.subscribe("a17/#", mqtt.AtMostOnce, 0)
	pub := a.login(mqtt.V5, "writer")
	before := memory()
	const topics = 10_000
	go func() {
		for i := range 2 * topics {
			pub.throw((&mqtt.Publish{Topic: fmt.Appendf(nil, "a17/%d", i%topics), Payload: fmt.Append(nil, i%topics)}).Append(nil, mqtt.V5))
		}
	}()
	names := make(map[uint16]string)
	for range 2 * topics {
		m := f.message(false)
		if m.HasAlias && len(m.Topic) > 0 {
			names[m.Alias] = string(m.Topic)
		}
		name := string(m.Topic)
		if name == "" {
			name = names[m.Alias]
		}
		if m.HasAlias && (m.Alias == 0 || m.Alias > 8) || name != "a17/"+string(m.Payload) {
			t.Fatalf("message %s came as %q with alias %d", m.Payload, name, m.Alias)
		}
	}
	if len(names) != 8 {
		t.Errorf("%d aliases were given, want 8", len(names))
	}
	a.grownLess("20,000 messages with aliases", before, 8<<20)
}
