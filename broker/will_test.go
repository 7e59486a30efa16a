package broker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// A way in which the connection of a client with a Will comes to its end.
type ending int

const (
	cut         ending = iota // the network goes
	normal                    // DISCONNECT
	withWill                  // DISCONNECT 0x04
	erring                    // a packet that breaks the protocol
	kicked                    // the operator ends it
	resumedOver               // taken over, the session goes on
	freshOver                 // taken over with Clean Start
	endOfEndings
)

func (e ending) String() string {
	return [...]string{"cut", "normal", "withWill", "erring", "kicked", "resumedOver", "freshOver"}[e]
}

// A thing that the client does some time after the end.
type comeback int

const (
	staysAway comeback = iota
	comesBack
	comesBackFresh
	endOfComebacks
)

// willCase is one combination of everything that decides when a Will is published.
type willCase struct {
	ending ending
	back   comeback
	at     time.Duration // when it comes back
	delay  time.Duration // Will Delay Interval
	expiry time.Duration // Session Expiry Interval
	change time.Duration // the one that DISCONNECT brings; negative for none
}

func (w willCase) String() string {
	return fmt.Sprintf("%v back=%d at=%v delay=%v expiry=%v change=%v", w.ending, w.back, w.at, w.delay, w.expiry, w.change)
}

// due is the oracle: when the Will is published after the end of the connection, and whether at all (§3.1.2.5, §3.1.3.2.2,
// §3.1.4, §3.14.2.2.2).
func (w willCase) due() (at time.Duration, ever bool) {
	expiry := w.expiry
	if w.change >= 0 {
		expiry = w.change
	}
	switch w.ending {
	case normal:
		return 0, false // [MQTT-3.14.4-3]
	case freshOver:
		return 0, true // the session ends
	case resumedOver:
		return 0, w.delay == 0 || expiry == 0 // the connection ends; the session too, if it was to last no longer
	}
	at = min(w.delay, expiry)
	switch {
	case w.back == staysAway || w.at > at, at == 0:
		return at, true
	case w.back == comesBackFresh:
		return w.at, true // the session ends with it [MQTT-3.1.3-9]
	}
	return 0, false // [MQTT-3.1.3-9]
}

func willCases() (all []willCase) {
	const none = -1
	seconds := []time.Duration{0, 5 * time.Second, 20 * time.Second}
	for e := range endOfEndings {
		for _, delay := range seconds {
			for _, expiry := range append(seconds, NeverExpires) {
				changes := []time.Duration{none}
				if e == withWill || e == normal {
					changes = append(changes, 0)
					if expiry > 0 {
						changes = append(changes, 3*time.Second, 60*time.Second)
					}
				}
				for _, change := range changes {
					w := willCase{e, staysAway, 0, delay, expiry, change}
					all = append(all, w)
					if e == resumedOver || e == freshOver {
						continue // it is back already
					}
					for back := comesBack; back < endOfComebacks; back++ {
						for _, at := range []time.Duration{2 * time.Second, 10 * time.Second, 30 * time.Second} {
							w.back, w.at = back, at
							all = append(all, w)
						}
					}
				}
			}
		}
	}
	return all
}

// TestWill plays every combination of endings, comebacks, delays and expiries and compares with the oracle.
func TestWill(t *testing.T) {
	for i, w := range willCases() {
		start := newRig
		if i%2 == 1 { // the combinations are many, and most of what each does, others do too
			start = newLoopRig
		}
		synctest.Test(t, func(t *testing.T) {
			if err := w.play(start(t, Config{})); err != nil {
				t.Errorf("%v: %v", w, err)
			}
		})
	}
}

func (w willCase) play(r *rig) error {
	type news struct {
		at      time.Duration
		payload string
	}
	var got []news
	var end time.Time
	watch, err := r.b.Subscribe("will", 2, func(m *mqtt.Message, _ bool) {
		got = append(got, news{time.Since(end).Truncate(time.Second), string(m.Payload)}) // a takeover takes a moment
	})
	if err != nil {
		return err
	}
	defer watch.Close()
	will := mqtt.Will{Topic: "will", Payload: []byte("gone")}
	if w.delay > 0 {
		will.Props = will.Props.WithInt(mqtt.WillDelayInterval, seconds(w.delay))
	}
	c := r.connect(mqtt.V5, "c", lasting(seconds(w.expiry)), leaving(will))
	time.Sleep(time.Minute)
	end = time.Now()
	w.end(c)
	if w.back != staysAway {
		time.Sleep(w.at)
		start := resume
		if w.back == comesBackFresh {
			start = fresh
		}
		r.connect(mqtt.V5, "c", start, lasting(60))
	}
	time.Sleep(time.Hour)
	synctest.Wait()
	at, ever := w.due()
	switch {
	case !ever && len(got) > 0:
		return fmt.Errorf("published at %v, must not be", got[0].at)
	case ever && (len(got) != 1 || got[0].at != at || got[0].payload != "gone"):
		return fmt.Errorf("published as %v, want once at %v", got, at)
	}
	return nil
}

// end ends the connection of c in the way of the case.
func (w willCase) end(c *client) {
	var props mqtt.Properties
	if w.change >= 0 {
		props = props.WithInt(mqtt.SessionExpiryInterval, seconds(w.change))
	}
	switch w.ending {
	case cut:
		c.drop()
	case normal:
		c.disconnect(mqtt.Success, props)
	case withWill:
		c.disconnect(mqtt.DisconnectWithWill, props)
	case erring:
		c.send([]byte{0x20, 2, 0, 0})
		c.wantEnd(mqtt.ProtocolError)
	case kicked:
		c.b.Kick(c.id, mqtt.AdministrativeAction, false)
		c.wantEnd(mqtt.AdministrativeAction)
	case resumedOver:
		c.connect(mqtt.V5, c.id, resume, lasting(60))
		c.wantEnd(mqtt.SessionTakenOver)
	case freshOver:
		c.connect(mqtt.V5, c.id, fresh, lasting(60))
		c.wantEnd(mqtt.SessionTakenOver)
	}
	c.until("the end", func() bool { return true })
}

// The Will of MQTT 3 is published at once on every end but a normal one.
func TestWillV3(t *testing.T) {
	for _, v := range versions[:2] {
		for _, start := range []option{fresh, resume} {
			for _, e := range []ending{cut, normal, erring, kicked, resumedOver, freshOver} {
				bubble(t, Config{}, func(r *rig) {
					watch := r.connect(mqtt.V5, "w")
					watch.subscribe(sub("will", 2))
					c := r.connect(v, "c", start, leaving(mqtt.Will{Topic: "will", Payload: []byte("gone"), QoS: 2}))
					willCase{ending: e, change: -1}.end(c)
					if e != normal {
						watch.want("gone")
					}
					watch.silent()
				})
			}
		}
	}
}

// A Will is an ordinary message: with its QoS, RETAIN and properties, its expiry beginning when it is published.
func TestWillContent(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		props := mqtt.Properties(nil).WithInt(mqtt.WillDelayInterval, 30).WithInt(mqtt.MessageExpiryInterval, 10).
			WithString(mqtt.ContentType, "text/plain").WithUser("a", "1").WithUser("a", "2")
		c := r.connect(mqtt.V5, "c", lasting(60), leaving(mqtt.Will{Topic: "will", Payload: []byte("gone"), QoS: 1, Retain: true, Props: props}))
		watch := r.connect(mqtt.V5, "w", keepAlive(0))
		watch.subscribe(mqtt.Subscription{Filter: "will", QoS: 2, RetainAsPublished: true})
		c.drop()
		time.Sleep(31 * time.Second)
		m := watch.take()
		if m.QoS != 1 || !m.Retain || !m.HasExpiry || m.Expiry != 10 || string(m.Payload) != "gone" {
			t.Errorf("got %+v", m)
		}
		want := mqtt.Properties(nil).WithString(mqtt.ContentType, "text/plain").WithUser("a", "1").WithUser("a", "2")
		if string(m.Props) != string(want) {
			t.Errorf("properties %x, want %x", m.Props, want)
		}
		time.Sleep(4 * time.Second)
		late := r.connect(mqtt.V5, "late")
		late.subscribe(sub("will", 0))
		if m := late.take(); m.Expiry != 5 || !m.Retain {
			t.Errorf("retained: %+v", m)
		}
		time.Sleep(6 * time.Second)
		late.subscribe(sub("will", 0))
		late.silent()
	})
}

// No Local keeps a Will from the client whose Will it is, even when that is back already [MQTT-3.8.3-3].
func TestWillNoLocal(t *testing.T) {
	bubble(t, Config{}, func(r *rig) {
		c := r.connect(mqtt.V5, "c", lasting(60), leaving(mqtt.Will{Topic: "will", Payload: []byte("gone")}))
		c.subscribe(mqtt.Subscription{Filter: "will", QoS: 1, NoLocal: true})
		other := r.connect(mqtt.V5, "d")
		other.subscribe(sub("will", 0))
		again := r.connect(mqtt.V5, "c", resume)
		c.wantEnd(mqtt.SessionTakenOver)
		other.want("gone")
		again.silent()
	})
}
