package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// Filters that overlap give one copy at the highest QoS, with the identifiers of all of them [MQTT-3.3.4-2],
// [MQTT-3.3.4-3].
func TestOverlappingFilters(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		for _, v := range versions {
			c := r.connect(v, "c")
			id := func(n uint32) mqtt.Properties {
				if v != mqtt.V5 {
					return nil
				}
				return mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, n)
			}
			c.trySubscribe(id(1), sub("a/b", 0))
			c.trySubscribe(id(2), sub("a/+", 2), sub("+/+", 1))
			c.trySubscribe(id(268_435_455), sub("#", 1))
			c.trySubscribe(nil, sub("+/b", 0))
			pub := r.connect(mqtt.V5, "p")
			for qos := range mqtt.QoS(3) {
				pub.publish("a/b", "x", qos)
				m := c.take()
				slices.Sort(m.IDs)
				if m.QoS != qos {
					r.Errorf("%v: QoS %d, want %d", v, m.QoS, qos)
				}
				if want := []uint32{1, 2, 2, 268_435_455}; v == mqtt.V5 && !slices.Equal(m.IDs, want) {
					r.Errorf("identifiers %v, want %v", m.IDs, want)
				}
				c.silent()
			}
			pub.publish("a/c", "x", 2)
			if m := c.take(); m.QoS != 2 || v == mqtt.V5 && len(m.IDs) != 3 {
				r.Errorf("%v: %+v", v, m)
			}
			pub.publish("b", "x", 2)
			if m := c.take(); m.QoS != 1 {
				r.Errorf("%v: %+v", v, m)
			}
			c.leave()
		}
	})
}

// Subscription Identifiers stay with what waits and what is retained.
func TestSubscriptionIdentifiersKept(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", lasting(60))
		c.trySubscribe(mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, 7), sub("a", 1))
		c.drop()
		pub := r.connect(mqtt.V5, "p")
		pub.publish("a", "x", 1)
		pub.publishPacket(retain("r", "y", 1))
		c = r.connect(mqtt.V5, "c", resume)
		if m := c.take(); !slices.Equal(m.IDs, []uint32{7}) {
			r.Errorf("queued: %v", m.IDs)
		}
		c.trySubscribe(mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, 8), sub("r", 1))
		if m := c.take(); !slices.Equal(m.IDs, []uint32{8}) {
			r.Errorf("retained: %v", m.IDs)
		}
		c.trySubscribe(mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, 9), sub("a", 0))
		pub.publish("a", "x", 1)
		if m := c.take(); !slices.Equal(m.IDs, []uint32{9}) || m.QoS != 0 {
			r.Errorf("after a new one: %v", m.IDs)
		}
	})
}

// With No Local a client does not hear itself, except through another subscription [MQTT-3.8.3-3].
func TestNoLocal(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		c, other := r.connect(mqtt.V5, "c"), r.connect(mqtt.V5, "d")
		quiet := func(filter string) mqtt.Subscription { return mqtt.Subscription{Filter: filter, QoS: 2, NoLocal: true} }
		c.subscribe(quiet("a/#"), quiet("+/b"))
		for qos := range mqtt.QoS(3) {
			if code := c.publishPacket(post("a/b", "mine", qos)); qos > 0 && code != mqtt.NoMatchingSubscribers {
				r.Errorf("nobody listens, but: %v", code)
			}
			other.publish("a/b", "other's", qos)
			c.want("other's")
		}
		c.silent()
		c.unsubscribe("+/b")
		c.subscribe(sub("b", 1))
		c.send(publishBytes(post("b", "heard", 0), mqtt.V5))
		c.want("heard")
		c.silent()
	})
	both(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		c.subscribe(mqtt.Subscription{Filter: "a", QoS: 2, NoLocal: true}, sub("+", 1))
		c.send(publishBytes(mqtt.Publish{Topic: []byte("a"), QoS: 0}, mqtt.V5))
		if m := c.take(); m.QoS != 0 {
			r.Errorf("%+v", m)
		}
		c.silent()
	})
}

// Properties that belong to the message travel unaltered and in order; those of the hop do not.
func TestPropertiesTravel(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		props := mqtt.Properties(nil).WithUser("b", "1").WithString(mqtt.ContentType, "t").WithUser("a", "2").
			WithFlag(mqtt.PayloadFormatIndicator, true).WithString(mqtt.CorrelationData, "\x00\xff").WithUser("b", "3").
			WithString(mqtt.ResponseTopic, "answer")
		m := retain("a", "x", 1)
		m.Props, m.HasAlias, m.Alias = props, true, 3
		live, away := r.connect(mqtt.V5, "live"), r.connect(mqtt.V5, "away", lasting(60))
		for _, c := range []*client{live, away} {
			c.subscribe(sub("a", 2))
		}
		away.drop()
		r.connect(mqtt.V5, "p").publishPacket(m)
		away = r.connect(mqtt.V5, "away", resume)
		late := r.connect(mqtt.V5, "late")
		late.subscribe(sub("#", 1))
		for _, c := range []*client{live, away, late} {
			if got := c.take(); string(got.Props) != string(props) || got.HasAlias {
				r.Errorf("%s: %x, want %x", c.id, got.Props, props)
			}
		}
		old := r.connect(mqtt.V311, "old")
		old.subscribe(sub("a", 0))
		old.want("x")
	})
}

func TestContentChecks(t *testing.T) {
	bubble(t, Config{CheckPayloadFormat: true}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		text := mqtt.Properties(nil).WithFlag(mqtt.PayloadFormatIndicator, true)
		for payload, want := range map[string]mqtt.ReasonCode{"ok": mqtt.NoMatchingSubscribers, "\xff": mqtt.PayloadFormatInvalid} {
			for _, qos := range []mqtt.QoS{1, 2} {
				m := post("a", payload, qos)
				m.Props = text
				if code := c.publishPacket(m); code != want {
					t.Errorf("%q at QoS %d: %v", payload, qos, code)
				}
			}
		}
		m := post("a", "x", 1)
		m.Props = mqtt.Properties(nil).WithString(mqtt.ResponseTopic, "a/#")
		m.PacketID = 9
		c.send(publishBytes(m, mqtt.V5))
		c.wantEnd(mqtt.ProtocolError) // [MQTT-3.3.2-14]
	})
}

// A Topic Alias stands for a name on one connection, until it stands for another.
func TestTopicAliasIn(t *testing.T) {
	both(t, Config{Limits: Limits{TopicAliases: 3}}, func(r *rig) {
		watch := r.connect(mqtt.V5, "w")
		watch.subscribe(sub("#", 1))
		c := r.connect(mqtt.V5, "c", lasting(60))
		send := func(name string, alias uint16) {
			m := mqtt.Publish{Topic: []byte(name), HasAlias: true, Alias: alias, Payload: []byte("x"), QoS: 1, PacketID: 1}
			c.send(publishBytes(m, mqtt.V5))
		}
		for _, step := range []struct {
			name  string
			alias uint16
			want  string
		}{{"a", 1, "a"}, {"", 1, "a"}, {"b", 3, "b"}, {"", 1, "a"}, {"c", 1, "c"}, {"", 1, "c"}, {"", 3, "b"}} {
			send(step.name, step.alias)
			c.wantAck(mqtt.PUBACK, 1)
			if m := watch.take(); string(m.Topic) != step.want {
				r.Errorf("%q with alias %d is %q, want %q", step.name, step.alias, m.Topic, step.want)
			}
		}
		for _, tc := range []struct {
			name  string
			alias uint16
			want  mqtt.ReasonCode
		}{{"", 1, mqtt.ProtocolError}, {"a", 4, mqtt.TopicAliasInvalid}, {"a", 0, mqtt.TopicAliasInvalid}, {"", 4, mqtt.TopicAliasInvalid}} {
			c = r.connect(mqtt.V5, "c", resume, lasting(60)) // aliases do not outlive a connection [MQTT-3.3.2-7]
			send(tc.name, tc.alias)
			c.wantEnd(tc.want)
		}
	})
}

// unalias finds out the Topic Names of a client that gets aliases.
type unalias map[uint16]string

func (u unalias) name(c *client, m mqtt.Publish) string {
	c.Helper()
	if !m.HasAlias {
		return string(m.Topic)
	}
	if len(m.Topic) > 0 {
		u[m.Alias] = string(m.Topic)
	}
	if u[m.Alias] == "" {
		c.Fatalf("%s: alias %d stands for nothing", c.id, m.Alias)
	}
	return u[m.Alias]
}

// The server gives aliases to a client that allows them, as many as it allows; drops of QoS 0 and packets too large do not
// break what they stand for.
func TestTopicAliasOut(t *testing.T) {
	both(t, Config{Limits: Limits{OutboxBytes: 400}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", with(mqtt.TopicAliasMaximum, 5), with(mqtt.MaximumPacketSize, 200))
		c.subscribe(sub("n/#", 1))
		pub := r.connect(mqtt.V5, "p")
		wanted, names := 0, make(unalias)
		read := func(m mqtt.Publish) {
			if got := names.name(c, m); m.QoS == 1 && got != string(m.Payload) {
				r.Fatalf("%q arrives as %q", m.Payload, got)
			}
		}
		for i := range 300 {
			name := fmt.Sprint("n/", i%12)
			pub.publish(name, strings.Repeat("y", i%250), 0) // some dropped: no room, or too large
			pub.publish(name, name, 1)
			if wanted++; i%40 == 39 {
				for wanted > 0 {
					m := c.take()
					if read(m); m.QoS == 1 {
						wanted--
					}
				}
			}
		}
		for wanted > 0 {
			m := c.take()
			if read(m); m.QoS == 1 {
				wanted--
			}
		}
		if len(names) != 5 {
			r.Errorf("%d aliases, want 5", len(names))
		}
		if d := r.b.Stats().Dropped; d[DropTooLarge] == 0 {
			r.Error("nothing was too large")
		}
	})
}

// Nothing larger than the client's Maximum Packet Size is sent, whatever makes it so large; what does not fit is as if it
// had been sent [MQTT-3.1.2-24], [MQTT-3.1.2-25].
func TestMaximumPacketSizeOut(t *testing.T) {
	both(t, Config{}, func(r *rig) {
		for _, options := range [][]option{
			{with(mqtt.MaximumPacketSize, 100)},
			{with(mqtt.MaximumPacketSize, 100), with(mqtt.TopicAliasMaximum, 10)},
		} {
			before := r.b.Stats().Dropped[DropTooLarge]
			c := r.connect(mqtt.V5, "c", append(options, lasting(60))...)
			c.trySubscribe(mqtt.Properties(nil).WithInt(mqtt.SubscriptionIdentifier, 200), sub("a", 2))
			c.subscribe(sub("b", 2))
			pub := r.connect(mqtt.V5, "p")
			tooLarge, fits := 0, 0
			for n := 60; n < 110; n++ {
				for qos := range mqtt.QoS(3) {
					pub.publish("a", strings.Repeat("x", n), qos)
					pub.publish("b", strings.Repeat("x", n), qos)
				}
			}
			pub.publish("a", "end", 1)
			for {
				m := c.take()
				if string(m.Payload) == "end" {
					break
				}
				if size := m.Size(mqtt.V5); size > 100 {
					r.Fatalf("%d bytes", size)
				}
				fits++
			}
			c.silent()
			tooLarge = int(r.b.Stats().Dropped[DropTooLarge] - before)
			if tooLarge+fits != 300 || tooLarge < 60 || fits < 150 {
				r.Errorf("%d came, %d were too large", fits, tooLarge)
			}
			c.drop()
			pub.publish("a", strings.Repeat("x", 100), 1)
			pub.publish("a", "small", 1)
			c = r.connect(mqtt.V5, "c", append(options, resume)...)
			c.want("small")
			c.silent()
		}
	})
}

// Reason strings are for those who ask for them, and have room for them.
func TestReasonStrings(t *testing.T) {
	for _, tc := range []struct {
		options []option
		want    bool
	}{
		{nil, false}, {[]option{with(mqtt.RequestProblemInformation, 0)}, false},
		{[]option{with(mqtt.RequestProblemInformation, 1)}, true},
		{[]option{with(mqtt.RequestProblemInformation, 1), with(mqtt.MaximumPacketSize, 30)}, false},
	} {
		bubble(t, Config{}, func(r *rig) {
			c := r.connect(mqtt.V5, "c", tc.options...)
			c.send((&mqtt.Connect{Version: mqtt.V5, ClientID: "c"}).Append(nil))
			d := expect[mqtt.Disconnect](c)
			if got := d.Props.String(mqtt.ReasonString); (got != "") != tc.want {
				t.Errorf("told %q", got)
			}
		})
	}
}

// What a client may not publish to or is not well-formed, by version and QoS.
func TestRefusedPublish(t *testing.T) {
	long := strings.Repeat("x", 50)
	both(t, Config{Authorizer: rules{"write no": deny}, Limits: Limits{TopicBytes: 40, TopicLevels: 5}, DollarTopics: []string{"$open", "$SYS"}}, func(r *rig) {
		watch := r.connect(mqtt.V5, "w")
		watch.subscribe(sub("#", 2), sub("$SYS/#", 2), sub("$open/#", 2))
		for _, tc := range []struct {
			name  string
			v5    mqtt.ReasonCode // at QoS 1 and 2
			ends5 bool            // at QoS 0, MQTT 5.0
			ends3 bool
		}{
			{"no", mqtt.NotAuthorized, false, false},
			{"$SYS/x", mqtt.NotAuthorized, false, false},
			{"$other", mqtt.NotAuthorized, false, false},
			{long, mqtt.TopicNameInvalid, true, true},
			{"1/2/3/4/5/6", mqtt.TopicNameInvalid, true, true},
		} {
			for _, v := range versions {
				for qos := range mqtt.QoS(3) {
					c := r.connect(v, "c")
					m := post(tc.name, "x", qos)
					if tc.ends5 || v != mqtt.V5 && tc.ends3 {
						m.PacketID = 1
						c.send(publishBytes(m, v))
						c.wantEnd(tc.v5)
						continue
					}
					if code := c.publishPacket(m); qos > 0 && v == mqtt.V5 && code != tc.v5 {
						r.Errorf("%s at QoS %d: %v", tc.name, qos, code)
					}
					c.barrier()
				}
			}
		}
		c := r.connect(mqtt.V5, "c")
		c.publish("$open/x", "open", 1)
		watch.want("open")
		watch.silent()
		if n := r.b.Stats().Refused; n != 27 {
			r.Errorf("%d refused", n)
		}
	})
}

// Bad filters: refused one by one in MQTT 5.0, the end of the connection before.
func TestRefusedSubscribe(t *testing.T) {
	bubble(t, Config{Authorizer: rules{"subscribe no": deny, "subscribe broken": fmt.Errorf("database is down")}}, func(r *rig) {
		c := r.connect(mqtt.V5, "c")
		codes := c.trySubscribe(nil, sub("a#", 1), sub("no", 1), sub("broken", 1), sub("$share/g/no", 1), sub("ok", 1))
		want := []mqtt.ReasonCode{mqtt.TopicFilterInvalid, mqtt.NotAuthorized, mqtt.UnspecifiedError, mqtt.NotAuthorized, mqtt.GrantedQoS1}
		if !slices.Equal(codes, want) {
			t.Errorf("%v, want %v", codes, want)
		}
		codes = c.unsubscribe("a#", "no", "ok")
		want = []mqtt.ReasonCode{mqtt.TopicFilterInvalid, mqtt.NoSubscriptionExisted, mqtt.Success}
		if !slices.Equal(codes, want) {
			t.Errorf("%v, want %v", codes, want)
		}
		old := r.connect(mqtt.V311, "old")
		codes = old.trySubscribe(nil, sub("no", 1), sub("ok", 2))
		if !slices.Equal(codes, []mqtt.ReasonCode{mqtt.UnspecifiedError, mqtt.GrantedQoS2}) {
			t.Errorf("3.1.1: %v", codes)
		}
		old.send((&mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{sub("a#", 1)}}).Append(nil, mqtt.V311))
		old.wantEnd(0)
	})
}
