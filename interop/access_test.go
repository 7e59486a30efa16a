package interop

import (
	"errors"
	"slices"
	"testing"
)

// The broker reads a password file that Mosquitto could have written. Who does not know the password hears that, and nothing else.
func TestPassword(t *testing.T) {
	b := start(t, options{passwords: true})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		s.user, s.password = user, password
		expectDelivery(t, k, s)
		for _, wrong := range [][2]string{{user, "p002"}, {"u002", password}, {"", ""}} {
			s.user, s.password = wrong[0], wrong[1]
			expectRefused(t, s, func() error { _, err := k.connect(t, s.by(fresh()), "#"); return err })
			expectRefused(t, s, func() error { return k.publish(t, s.by(fresh()), message{name: s.clientID}) })
		}
	})
}

// expectRefused demands one of the two codes that each version has for a failed login.
func expectRefused(t *testing.T, s settings, attempt func() error) {
	t.Helper()
	want := []refusal{4, 5}
	if s.version == v5 {
		want = []refusal{0x86, 0x87}
	}
	err := attempt()
	var code refusal
	if !errors.As(err, &code) || !slices.Contains(want, code) {
		t.Errorf("user %q, password %q: got %v, want one of %x", s.user, s.password, err, want)
	}
}

// A listener that demands a certificate lets in who has one, and nobody else.
func TestClientCertificate(t *testing.T) {
	b := start(t, options{})
	everyPeer(t, b, func(t *testing.T, k kind, s settings) {
		s.at, s.certificate = b.at("mtls"), true
		expectDelivery(t, k, s)
		s.certificate = false
		if err := k.publish(t, s.by(fresh()), message{name: s.clientID}); err == nil {
			t.Error("without a certificate a client could publish")
		}
	})
}

func expectDelivery(t *testing.T, k kind, s settings) {
	t.Helper()
	c := connect(t, k, s.by(fresh()).subscribing(1), s.clientID)
	sent := message{name: s.clientID, payload: "23.5", qos: 1}
	publish(t, k, s, sent)
	c.expect(t, sent)
}
