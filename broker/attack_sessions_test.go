package broker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// believer lets everybody be who they say they are.
type believer struct{}

func (believer) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	return broker.Grant{User: r.Username}, nil
}

// sessionFor is a CONNECT for a session that stays.
func sessionFor(v mqtt.Version, user, id string) mqtt.Connect {
	c := hello(v, id)
	c.Username, c.CleanStart = user, false
	if v == mqtt.V5 {
		c.Props = mqtt.Properties(nil).WithInt(mqtt.SessionExpiryInterval, 0xFFFFFFFF)
	}
	return c
}

// TestA15ManySessions: one user makes sessions that stay under ever new client ids, and leaves each at once. Beyond the limit
// nothing is kept of them: MQTT 5.0 hears 0x97, MQTT 3 that the server is unavailable. Others connect as before, and who has a session
// comes back to it.
func TestA15ManySessions(t *testing.T) {
	const most, tries = 200, 3000
	for name, s := range map[string]store.Store{"without a store": nil, "with a store": &store.Memory{}} {
		t.Run(name, func(t *testing.T) {
			a := newArena(t, broker.Config{Authenticator: believer{}, Store: s, Limits: broker.Limits{SessionsPerUser: most}})
			refused := 0
			before := memory()
			for i := range tries {
				v := attackVersions[i%3]
				f, ack := a.try(sessionFor(v, "mallory", fmt.Sprint("a15-", i)))
				if _ = f.nc.Close(); ack.Code == mqtt.Success {
					continue
				}
				if refused++; v == mqtt.V5 && ack.Code != mqtt.QuotaExceeded || v != mqtt.V5 && ack.Code != mqtt.ServerUnavailable {
					t.Fatalf("MQTT %s hears 0x%02X", v, byte(ack.Code))
				}
			}
			if n := a.broker.Stats().Sessions - 2; n != most || refused != tries-most {
				t.Errorf("%d sessions, %d refused, want %d and %d", n, refused, most, tries-most)
			}
			a.grownLess("3,000 sessions of one user", before, 8<<20)
			a.loginAs(sessionFor(mqtt.V5, "alice", "a15-alice"))
			if _, ack := a.try(sessionFor(mqtt.V5, "mallory", "a15-2")); ack.Code != mqtt.Success || !ack.SessionPresent {
				t.Errorf("a session that there is: %v, present %v", ack.Code, ack.SessionPresent)
			}
			a.endSessions(most)
		})
	}
}

// endSessions lets the user end all sessions, and make as many new ones.
func (a *arena) endSessions(most int) {
	a.Helper()
	for i := range most {
		c := sessionFor(mqtt.V311, "mallory", fmt.Sprint("a15-", i))
		c.CleanStart = true
		a.loginAs(c).shut()
	}
	a.eventually("all sessions have ended", func() bool { return a.broker.Stats().Sessions == 3 })
	for i := range most {
		a.loginAs(sessionFor(mqtt.V5, "mallory", fmt.Sprint("a15-new-", i))).shut()
	}
	if _, ack := a.try(sessionFor(mqtt.V5, "mallory", "a15-more")); ack.Code != mqtt.QuotaExceeded {
		a.Errorf("one more again: %v", ack.Code)
	}
}

// TestA15AfterRestart: the sessions of a user count again after a restart, and there are none more for it.
func TestA15AfterRestart(t *testing.T) {
	s := &store.Memory{}
	cfg := broker.Config{Authenticator: believer{}, Store: s, Limits: broker.Limits{SessionsPerUser: 5}}
	t.Run("before", func(t *testing.T) {
		a := newArena(t, cfg)
		for i := range 5 {
			a.loginAs(sessionFor(mqtt.V5, "mallory", fmt.Sprint("a15-", i)))
		}
	})
	t.Run("after", func(t *testing.T) {
		a := newArena(t, cfg)
		if _, ack := a.try(sessionFor(mqtt.V5, "mallory", "a15-5")); ack.Code != mqtt.QuotaExceeded {
			t.Errorf("a sixth session: %v", ack.Code)
		}
		if _, ack := a.try(sessionFor(mqtt.V5, "mallory", "a15-4")); ack.Code != mqtt.Success || !ack.SessionPresent {
			t.Errorf("the fifth: %v, present %v", ack.Code, ack.SessionPresent)
		}
	})
}

// TestA15Nobody: clients without a user name are nobody in particular, so the limit of all sessions is what stops them.
func TestA15Nobody(t *testing.T) {
	const most = 100
	a := newArena(t, broker.Config{Limits: broker.Limits{Sessions: most + 2, SessionsPerUser: 3}})
	for i := range 300 {
		f, ack := a.try(sessionFor(mqtt.V5, "", fmt.Sprint("a15-", i)))
		_ = f.nc.Close()
		if want := i < most; (ack.Code == mqtt.Success) != want || !want && ack.Code != mqtt.QuotaExceeded {
			t.Fatalf("session %d: %v", i, ack.Code)
		}
	}
}
