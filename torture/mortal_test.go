package torture

import (
	"fmt"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// mortals are clients that live once, each with a Will, and die in one of several ways.
type mortals struct {
	client
	born   int
	ending []string // ClientIDs whose sessions must have ended when their Wills have come
}

// death is a way to die.
type death struct {
	v      mqtt.Version
	expiry uint32 // of the session, in seconds
	clean  bool   // no session is kept
	delay  uint32 // of the Will, in seconds
	say    bool   // leave with DISCONNECT
	code   mqtt.ReasonCode
}

// aDay is longer than any run, in seconds.
const aDay = 24 * 60 * 60

var deaths = []death{
	{v: mqtt.V311, clean: true},
	{v: mqtt.V311},
	{v: mqtt.V311, say: true},
	{v: mqtt.V5, clean: true, delay: aDay}, // the session ends with the connection, so the Will does not wait (§3.1.3.2.2)
	{v: mqtt.V5, expiry: aDay, delay: 1},
	{v: mqtt.V5, expiry: 1, delay: aDay},
	{v: mqtt.V5, expiry: aDay, say: true},
	{v: mqtt.V5, expiry: aDay, say: true, code: mqtt.DisconnectWithWill},
	{v: mqtt.V5, expiry: aDay, delay: 1, say: true, code: mqtt.DisconnectWithWill},
}

func (m *mortals) run() {
	for m.ctx.Err() == nil && !m.quiet.Load() {
		m.one(deaths[m.rng.IntN(len(deaths))])
		m.pause(40 * time.Millisecond)
	}
}

// one lives and dies. The Will is promised by the SUBACK, which only comes when all before it is on disk.
func (m *mortals) one(d death) {
	m.born++
	m.id, m.v, m.known = fmt.Sprintf("mortal%d", m.born), d.v, false
	name := "w/" + m.id
	will := 0
	m.link, _ = m.dial(func(int64) mqtt.Connect {
		will = m.newWill(name) // a CONNECT that was not answered may leave its own behind
		return d.connect(m.id, &mqtt.Will{Topic: name, Payload: body(mqtt.ExactlyOnce, will, 100), QoS: mqtt.ExactlyOnce})
	})
	if m.link == nil || !m.subscribe() {
		return // the Will may be published or not
	}
	if d.say && d.code == mqtt.Success {
		m.peace(name, will)
		return
	}
	m.setWill(name, will, promised)
	if d.say {
		m.leave(d.code)
	}
	_ = m.link.nc.Close()
	if d.expiry == 1 {
		m.ending = append(m.ending, m.id)
	}
}

func (d death) connect(id string, w *mqtt.Will) mqtt.Connect {
	p := mqtt.Connect{Version: d.v, ClientID: id, KeepAlive: 600, CleanStart: d.clean, Will: w}
	if d.v == mqtt.V5 {
		p.Props = p.Props.WithInt(mqtt.SessionExpiryInterval, d.expiry)
		w.Props = w.Props.WithInt(mqtt.WillDelayInterval, d.delay)
	}
	return p
}

// subscribe reports whether the SUBACK came.
func (m *mortals) subscribe() bool {
	p := mqtt.Subscribe{PacketID: 1, Subscriptions: []mqtt.Subscription{{Filter: "nothing", QoS: mqtt.AtLeastOnce}}}
	m.link.out = p.Append(m.link.out, m.v)
	m.link.flush()
	packet, err := m.link.next()
	if err != nil {
		m.ended(m.link, err)
		return false
	}
	if _, ok := packet.(mqtt.Suback); !ok {
		m.fail("%s: SUBSCRIBE answered with %+v", m.id, packet)
	}
	return true
}

// peace ends with DISCONNECT, which takes the Will back. That is on disk when the next connection has its SUBACK, if the broker
// was not killed in between.
func (m *mortals) peace(name string, will int) {
	before := m.link.life
	m.leave(mqtt.Success)
	m.known = m.lives.Load() == before
	if m.link, _ = m.dial(func(int64) mqtt.Connect { return m.request() }); m.link == nil {
		return
	}
	if m.subscribe() && m.link.life == before && m.lives.Load() == before {
		m.setWill(name, will, forbidden)
	}
	_ = m.link.nc.Close()
}

// audit looks whether the sessions that must have ended have. Everybody's Will has come.
func (m *mortals) audit() {
	for _, id := range m.ending {
		m.id, m.v, m.known = id, mqtt.V5, false
		link, present := m.dial(func(int64) mqtt.Connect { return mqtt.Connect{Version: mqtt.V5, ClientID: id, KeepAlive: 600} })
		if link == nil {
			return
		}
		_ = link.nc.Close()
		if present {
			m.fail("%s: the session is there, and its Will was published because it had ended", id)
		}
	}
}
