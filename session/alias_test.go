package session

import (
	"fmt"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// Aliases from the peer: 1 to the maximum are good, all of them; zero and above are not [MQTT-3.3.2-8], [MQTT-3.3.2-9],
// [MQTT-3.3.2-10], [MQTT-3.3.2-12], [MQTT-3.2.2-17], [MQTT-3.2.2-18].
func TestAliasesInRange(t *testing.T) {
	tests := []struct {
		max, alias uint16
		good       bool
	}{
		{0, 0, false}, {0, 1, false}, {0, 65535, false},
		{1, 0, false}, {1, 1, true}, {1, 2, false},
		{10, 10, true}, {10, 11, false}, {10, 65535, false},
		{65535, 0, false}, {65535, 1, true}, {65535, 65535, true},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d of %d", tt.alias, tt.max), func(t *testing.T) {
			var a AliasesIn
			a.Reset(tt.max)
			want, wantGet := error(nil), error(mqtt.ProtocolError)
			if !tt.good {
				want, wantGet = mqtt.TopicAliasInvalid, mqtt.TopicAliasInvalid
			}
			if name, err := a.Get(tt.alias); name != "" || err != wantGet {
				t.Errorf("get before set: %q %v, want %v", name, err, wantGet)
			}
			if err := a.Set(tt.alias, "a/b"); err != want {
				t.Errorf("set: %v, want %v", err, want)
			}
			if name, err := a.Get(tt.alias); err != want || tt.good && name != "a/b" {
				t.Errorf("get: %q %v, want %v", name, err, want)
			}
		})
	}
}

// The zero value allows none.
func TestAliasesZeroValue(t *testing.T) {
	var in AliasesIn
	if err := in.Set(1, "a"); err != mqtt.TopicAliasInvalid {
		t.Errorf("in: %v", err)
	}
	var out AliasesOut
	if alias, known := out.Use("a"); alias != 0 || known || out.Enabled() {
		t.Errorf("out: %d %v %v", alias, known, out.Enabled())
	}
}

// An alias stands for the name given last, on its connection only [MQTT-3.3.2-7]; one never set is a protocol error, also
// below one that was.
func TestAliasesIn(t *testing.T) {
	var a AliasesIn
	a.Reset(5)
	get := func(alias uint16, want string, wantErr error) {
		t.Helper()
		if got, err := a.Get(alias); got != want || err != wantErr {
			t.Errorf("alias %d: got %q %v, want %q %v", alias, got, err, want, wantErr)
		}
	}
	for _, s := range []struct {
		alias uint16
		name  string
	}{{4, "four"}, {2, "two"}, {4, "vier"}} {
		if err := a.Set(s.alias, s.name); err != nil {
			t.Fatal(err)
		}
	}
	get(4, "vier", nil)
	get(2, "two", nil)
	get(3, "", mqtt.ProtocolError)
	get(5, "", mqtt.ProtocolError)
	a.Reset(3)
	get(2, "", mqtt.ProtocolError)
	get(4, "", mqtt.TopicAliasInvalid)
}

// What a peer can make us remember grows with the aliases that it uses, and not beyond the maximum.
func TestAliasesInMemory(t *testing.T) {
	var a AliasesIn
	a.Reset(65535)
	if a.names != nil {
		t.Error("names before the first alias")
	}
	a.Reset(8)
	for alias := range uint16(100) {
		a.Set(alias, "name")
	}
	if len(a.names) != 8 {
		t.Errorf("%d names, want 8", len(a.names))
	}
}

// Our aliases go to the names that come first, from 1 to the peer's maximum [MQTT-3.3.2-8], [MQTT-3.3.2-11],
// [MQTT-3.1.2-26]; later names have none.
func TestAliasesOut(t *testing.T) {
	var a AliasesOut
	for _, maximum := range []uint16{3, 1, 0} { // each connection starts anew [MQTT-3.3.2-7], [MQTT-3.1.2-27]
		a.Reset(maximum)
		if a.Enabled() != (maximum > 0) {
			t.Errorf("maximum %d: enabled %v", maximum, a.Enabled())
		}
		for round := range 2 {
			for n := range uint16(5) {
				want, wantKnown := n+1, round > 0
				if want > maximum {
					want, wantKnown = 0, false
				}
				alias, known := a.Use(fmt.Sprint("name/", n))
				if alias != want || known != wantKnown {
					t.Errorf("maximum %d, name %d, round %d: got %d %v, want %d %v", maximum, n, round, alias, known, want, wantKnown)
				}
			}
		}
	}
}

// All 65,535 aliases can be given, none twice.
func TestAliasesOutAll(t *testing.T) {
	var a AliasesOut
	a.Reset(65535)
	for n := range 65535 {
		if alias, known := a.Use(fmt.Sprint(n)); int(alias) != n+1 || known {
			t.Fatalf("name %d: alias %d, known %v", n, alias, known)
		}
	}
	if alias, known := a.Use("one more"); alias != 0 || known {
		t.Errorf("one more: alias %d, known %v", alias, known)
	}
}

// What one peer's aliases mean, the other understands.
func TestAliasesBothEnds(t *testing.T) {
	var out AliasesOut
	var in AliasesIn
	out.Reset(10)
	in.Reset(10)
	for n := range 100 {
		name := fmt.Sprint("name/", n*n%23)
		alias, known := out.Use(name)
		if alias == 0 {
			continue
		}
		if !known {
			if err := in.Set(alias, name); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := in.Get(alias); got != name || err != nil {
			t.Fatalf("alias %d: got %q %v, want %q", alias, got, err, name)
		}
	}
}
