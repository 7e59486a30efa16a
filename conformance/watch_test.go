package conformance

import (
	"encoding/hex"
	"strings"
	"testing"
)

// TestWatch: a broker that breaks a rule is caught without any script. Packets
// of the client begin with >.
func TestWatch(t *testing.T) {
	const connack, resumed = "20 03 00 00 00", "20 03 01 00 00"
	for _, c := range []struct {
		name    string
		connect string
		packets []string
		want    string // part of the error of the last packet; empty means none
	}{
		{"good", "", []string{connack, "32 06 0001 61 0001 00", ">PUBACK id=1", "32 06 0001 61 0001 00"}, ""},
		{"two CONNACKs", "", []string{connack, connack}, "[MQTT-3.2.0-2]"},
		{"PINGRESP first", "", []string{"D0 00"}, "[MQTT-3.2.0-1]"},
		{"DISCONNECT first", "", []string{"E0 02 81 00"}, "[MQTT-3.14.0-1]"},
		{"after DISCONNECT", "", []string{connack, "E0 02 81 00", "D0 00"}, "[MQTT-3.14.4-1]"},
		{"after a refusal", "", []string{"20 03 00 85 00", "20 03 00 85 00"}, "[MQTT-3.2.2-7]"},
		{"Session Present in a refusal", "", []string{"20 03 01 85 00"}, "[MQTT-3.2.2-6]"},
		{"code of another packet", "", []string{connack, "40 04 0001 92 00"}, "not a Reason Code of PUBACK"},
		{"too large", "max-packet=5", []string{connack, "32 06 0001 61 0001 00"}, "has 8 bytes"},
		{"reason unasked", "request-problem=0", []string{connack, "40 08 0001 10 04 1F 0001 61"}, "[MQTT-3.1.2-29]"},
		{"reason asked", "request-problem=1", []string{connack, "40 08 0001 10 04 1F 0001 61"}, ""},
		{"reason in CONNACK", "request-problem=0", []string{"20 07 00 85 04 1F 0001 61"}, ""},
		{"method unasked", "", []string{"20 07 00 00 04 15 0001 6D"}, "[MQTT-4.12.0-6]"},
		{"AUTH unasked", "", []string{"F0 06 18 04 15 0001 6D"}, "[MQTT-4.12.0-6]"},
		{"another method", "auth-method=x", []string{"F0 06 18 04 15 0001 6D"}, "[MQTT-4.12.0-5]"},
		{"no method", "auth-method=x", []string{connack}, "[MQTT-4.12.0-5]"},
		{"same method", "auth-method=m", []string{"F0 06 18 04 15 0001 6D", "20 07 00 00 04 15 0001 6D"}, ""},
		{"assigned though brought", "id=a", []string{"20 07 00 00 04 12 0001 6D"}, "its own Client Identifier"},
		{"DUP at QoS 0", "", []string{connack, "38 04 0001 61 00"}, "[MQTT-3.3.1-2]"},
		{"identifier in use", "", []string{connack, "32 06 0001 61 0001 00", "32 06 0001 61 0001 00"}, "[MQTT-2.2.1-4]"},
		{"identifier in use by QoS 2", "", []string{connack, "34 06 0001 61 0001 00", ">PUBREC id=1", "62 02 0001", "32 06 0001 61 0001 00"}, "[MQTT-2.2.1-4]"},
		{"identifier free after an error", "", []string{connack, "34 06 0001 61 0001 00", ">PUBREC id=1 80", "32 06 0001 61 0001 00"}, ""},
		{"DUP at first", "", []string{connack, "3A 06 0001 61 0001 00"}, "[MQTT-4.3.2-2]"},
		{"DUP in a resumed session", "", []string{resumed, "3A 06 0001 61 0001 00"}, ""},
		{"more than Receive Maximum", "receive-max=1", []string{connack, "32 06 0001 61 0001 00", "32 06 0001 61 0002 00"}, "[MQTT-3.3.4-9]"},
		{"alias unasked", "", []string{connack, "30 07 0001 61 03 23 0001"}, "[MQTT-3.1.2-27]"},
		{"alias above the maximum", "alias-max=1", []string{connack, "30 07 0001 61 03 23 0002"}, "[MQTT-3.1.2-26]"},
		{"alias never given", "alias-max=1", []string{connack, "30 06 0000 03 23 0001"}, "[MQTT-3.3.2-7]"},
		{"alias given", "alias-max=1", []string{connack, "30 07 0001 61 03 23 0001", "30 06 0000 03 23 0001"}, ""},
		{"no Topic Name", "", []string{connack, "30 03 0000 00"}, "[MQTT-4.7.3-1]"},
	} {
		w := newWatch(V5)
		d, err := describe("CONNECT", strings.Fields(c.connect), nil)
		if err != nil {
			t.Fatal(err)
		}
		w.connect(V5, d)
		if err := play(t, w, c.packets); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error is %v, want %q", c.name, err, c.want)
		}
	}
}

// play shows the packets to w and returns its verdict on the last; the others
// must be good.
func play(t *testing.T, w *watch, packets []string) error {
	t.Helper()
	for i, text := range packets {
		if sent, ok := strings.CutPrefix(text, ">"); ok {
			words := strings.Fields(sent)
			d, err := describe(words[0], words[1:], nil)
			if err != nil {
				t.Fatal(err)
			}
			w.sent(d)
			continue
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		p, err := decode(V5, raw)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if err := w.received(p); i == len(packets)-1 {
			return err
		} else if err != nil {
			t.Errorf("packet %d: %v", i, err)
		}
	}
	return nil
}
