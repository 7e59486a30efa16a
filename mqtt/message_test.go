package mqtt

import (
	"math"
	"testing"
	"time"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// A message owns its bytes: the read buffer may be used again.
func TestMessageOwnsItsBytes(t *testing.T) {
	b := hex("33 16 0001 't' 0001 0C 02 0000003C 26 0001 'k' 0001 'v' 'body'")
	f, _, err := ParseFrame(b, V5, MaxPacket)
	if err != nil {
		t.Fatal(err)
	}
	var p Publish
	if err := p.Parse(f, V5); err != nil {
		t.Fatal(err)
	}
	m := p.Message("resolved", "publisher", noon)
	clear(b)
	_ = append(m.Payload, "overwritten"...) // payload and properties share an array
	want := &Message{
		Topic: "resolved", Payload: []byte("body"), QoS: AtLeastOnce, Retain: true, Expires: noon.Add(time.Minute),
		Props: Properties{}.WithUser("k", "v"), Publisher: "publisher",
	}
	if string(m.Payload) != "body" || !same(&m.Props, &want.Props) {
		t.Errorf("payload %q, properties % X", m.Payload, m.Props)
	}
	if m.Topic != want.Topic || m.Publisher != want.Publisher || m.QoS != want.QoS || m.Retain != want.Retain || !m.Expires.Equal(want.Expires) {
		t.Errorf("got %+v, want %+v", m, want)
	}
}

// The interval is counted down [MQTT-3.3.2-6] until the message has expired (§3.3.2.3.3).
func TestMessageExpiry(t *testing.T) {
	for _, c := range []struct {
		interval uint32
		waited   time.Duration
		expired  bool
		left     uint32
	}{
		{0, 0, true, 0},
		{1, 0, false, 1},
		{1, time.Second - 1, false, 1},
		{1, time.Second, true, 0},
		{1, time.Hour, true, 0},
		{60, time.Second, false, 59},
		{60, time.Second + 1, false, 59},
		{60, time.Second - 1, false, 60},
		{math.MaxUint32, 0, false, math.MaxUint32},
		{math.MaxUint32, time.Second, false, math.MaxUint32 - 1},
		{math.MaxUint32, -time.Hour, false, math.MaxUint32}, // the clock was set back
		{10, math.MinInt64, false, math.MaxUint32},
	} {
		m := (&Publish{HasExpiry: true, Expiry: c.interval}).Message("t", "", noon)
		now := noon.Add(c.waited)
		left, ok := m.Remaining(now)
		if m.Expired(now) != c.expired || left != c.left || !ok {
			t.Errorf("interval %d after %v: expired %t, %d left, %t; want %t, %d", c.interval, c.waited, m.Expired(now), left, ok, c.expired, c.left)
		}
	}
}

func TestMessageWithoutExpiry(t *testing.T) {
	m := pub("t", "x").Message("t", "", noon)
	later := noon.AddDate(100, 0, 0)
	if left, ok := m.Remaining(later); m.Expired(later) || ok || left != 0 {
		t.Errorf("expired %t, %d left, %t", m.Expired(later), left, ok)
	}
}
