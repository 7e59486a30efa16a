package conformance

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestEncode(t *testing.T) {
	vars := map[string]string{"id": "xy", "p": "258"}
	for _, c := range []struct {
		version Version
		line    string
		want    string
	}{
		{V5, `36 { s"a/b" 0001 00 }`, "36 08 0003 612F62 0001 00"},
		{V5, `30 { s'$id' { 26 s"k" s"v" } 'z'*3 }`, "30 0F 0002 7879 07 26 0001 6B 0001 76 7A7A7A"},
		{V5, `40 02 $p`, "40 02 0102"},
		{V5, `00*3 text "x"`, "error"},
		{V5, `'$SYS'`, "24535953"},
		{V311, `CONNECT id=$id`, "10 0E 0004 4D515454 04 02 0000 0002 7879"},
		{V31, `CONNECT id=a clean=0 keepalive=10`, "10 0F 0006 4D5149736470 03 00 000A 0001 61"},
		{V5, `CONNECT id=a user=u pass=p will=w will-payload=x will-qos=2 will-retain=1 will-delay=5 session-expiry=1 will-user:k=v`,
			"10 2C 0004 4D515454 05 F6 0000 05 11 00000001 0001 61 0C 18 00000005 26 0001 6B 0001 76 0001 77 0001 78 0001 75 0001 70"},
		{V5, `CONNACK 85`, "20 03 00 85 00"},
		{V311, `PUBLISH topic=a payload="b c" qos=2 id=$p dup=1 retain=1`, "3D 08 0001 61 0102 622063"},
		{V5, `PUBLISH topic=a alias=7 expiry=1`, "30 0C 0001 61 08 23 0007 02 00000001"},
		{V5, `PUBLISH topic=a payload=hex:00FF subid=268435455`, "30 0B 0001 61 05 0B FFFFFF7F 00FF"},
		{V5, `PUBACK id=1`, "40 02 0001"},
		{V5, `PUBACK id=1 10`, "40 04 0001 10 00"},
		{V311, `PUBREL id=1 92`, "62 02 0001"},
		{V5, `SUBSCRIBE id=1 subid=9 filter=a qos=1 nl=1 rap=1 rh=2 filter=b`, "82 0D 0001 02 0B 09 0001 61 2D 0001 62 00"},
		{V311, `UNSUBSCRIBE id=1 filter=a`, "A2 05 0001 0001 61"},
		{V5, `SUBACK id=1 00 87`, "90 05 0001 00 00 87"},
		{V5, `PINGREQ`, "C0 00"},
		{V5, `DISCONNECT`, "E0 00"},
		{V5, `DISCONNECT 04`, "E0 02 04 00"},
		{V311, `DISCONNECT 04`, "E0 00"},
		{V5, `AUTH 18 auth-method=m`, "F0 06 18 04 15 0001 6D"},
	} {
		words, err := splitWords(c.line)
		if err != nil {
			t.Fatal(err)
		}
		b, err := encodeWords(c.version, words, vars)
		got := strings.ToUpper(hex.EncodeToString(b))
		if err != nil {
			got = "error"
		}
		if got != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%v %s: got %s (%v)", c.version, c.line, got, err)
		}
	}
}

// TestDecode shows what is read from a server, and that it is read strictly.
func TestDecode(t *testing.T) {
	for _, c := range []struct {
		version Version
		packet  string
		want    string // or part of the error
	}{
		{V5, "20 03 01 00 00", "CONNACK sp=1 00"},
		{V311, "20 02 00 05", "CONNACK sp=0 05"},
		{V5, "20 02 00 01", "CONNACK sp=0 01"},
		{V311, "20 03 00 84 00", "CONNACK sp=0 84"},
		{V5, "20 03 02 00 00", "Connect Acknowledge Flags"},
		{V5, "20 06 00 00 03 21 0007", "CONNACK sp=0 receive-max=7 00"},
		{V5, "20 06 00 00 03 23 0007", "not allowed in CONNACK"},
		{V5, "20 09 00 00 06 21 0007 21 0007", "appears twice"},
		{V5, "20 05 00 00 02 7E 00", "does not exist"},
		{V5, "20 05 00 00 03 21 00", "ends within"},
		{V311, "3B 06 0001 61 0102 62", "PUBLISH topic=a qos=1 retain=1 dup=1 id=258 payload=b"},
		{V5, "30 04 0001 61 00", `PUBLISH topic=a qos=0 retain=0 dup=0 payload=""`},
		{V5, "36 06 0001 61 0001 00", "QoS is 3"},
		{V5, "32 06 0001 61 0000 00", "Packet Identifier is 0"},
		{V5, "30 04 0001 FF 00", "not good UTF-8"},
		{V5, "30 04 0001 00 00", "not good UTF-8"},
		{V5, "30 05 0001 61 8000", "bad Variable Byte Integer"},
		{V5, "40 02 0001", "PUBACK id=1 00"},
		{V5, "40 03 0001 10", "PUBACK id=1 10"},
		{V5, "40 0A 0001 10 06 1F 0003 616263", "PUBACK id=1 reason=abc 10"},
		{V311, "40 03 0001 10", "left over"},
		{V5, "42 02 0001", "flags are 0010"},
		{V5, "62 02 0001", "PUBREL id=1 00"},
		{V5, "60 02 0001", "flags are 0000"},
		{V5, "90 05 0001 00 01 87", "SUBACK id=1 01 87"},
		{V311, "B0 02 0001", "UNSUBACK id=1"},
		{V5, "D0 00", "PINGRESP"},
		{V5, "D0 01 00", "left over"},
		{V5, "E0 02 8E 00", "DISCONNECT 8E"},
		{V5, "E0 07 8E 05 11 00000001", "not allowed in DISCONNECT"},
		{V5, "F0 06 18 04 15 0001 6D", "AUTH auth-method=m 18"},
		{V5, "82 06 0001 00 0001 61", "flags are 0010"},
		{V5, "C0 00", "a server does not send it"},
		{V5, "D0 02", "wrong Remaining Length"},
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(c.packet, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		p, err := decode(c.version, raw)
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v %s: error is %v, want %s", c.version, c.packet, err, c.want)
			}
		} else if p.String() != c.want {
			t.Errorf("%v %s: got %s, want %s", c.version, c.packet, p, c.want)
		}
	}
}

// FuzzDecode: whatever a broker sends, it is told as an error, not as a panic.
func FuzzDecode(f *testing.F) {
	f.Add(5, []byte{0x20, 3, 0, 0, 0})
	f.Add(5, []byte{0x32, 9, 0, 1, 'a', 0, 1, 3, 0x23, 0, 1})
	f.Add(4, []byte{0x90, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, version int, raw []byte) {
		if len(raw) == 0 {
			return // the stream had ended
		}
		p, err := decode(Version(version), raw)
		if err == nil && p.name == "" {
			t.Errorf("% X: no error and no packet", raw)
		}
	})
}
