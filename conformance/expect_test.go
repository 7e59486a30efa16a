package conformance

import (
	"encoding/hex"
	"strings"
	"testing"
)

// TestMatch holds expectations against packets.
func TestMatch(t *testing.T) {
	const publish = "32 13 0001 61 0007 0C 0B 01 0B 02 02 00000005 23 0001 78" // subid 1 and 2, expiry 5, alias 1
	for _, c := range []struct {
		version Version
		line    string
		packet  string
		want    string // part of the error; empty means a match
	}{
		{V5, "20 .. 00 00 00", "20 03 00 00 00", ""},
		{V5, "20 *", "20 03 00 00 00", ""},
		{V5, "20 03 .. ..", "20 03 00 00 00", "more than expected"},
		{V5, "20 03 .. .. .. ..", "20 03 00 00 00", "packet ends"},
		{V5, "21 *", "20 03 00 00 00", "does not match"},
		{V311, `30 { s"a" 'x' }`, "30 04 0001 61 78", ""},
		{V311, `30 { s"a" 'y' }`, "30 04 0001 61 78", "it is not"},
		{V5, "CONNACK", "20 03 00 00 00", ""},
		{V5, "CONNACK", "20 03 01 00 00", "sp=1 is not 0"},
		{V5, "CONNACK sp=1 85|00", "20 03 01 00 00", ""},
		{V5, "CONNACK 85|87", "20 03 00 00 00", "Reason Code 00"},
		{V5, "CONNACK !receive-max", "20 06 00 00 03 21 0007", "receive-max is present"},
		{V5, "CONNACK receive-max=1..6", "20 06 00 00 03 21 0007", "is not 1..6"},
		{V5, "CONNACK receive-max=7..7", "20 06 00 00 03 21 0007", ""},
		{V5, "CONNACK alias-max=*", "20 06 00 00 03 21 0007", "is missing"},
		{V5, "PUBACK id=1", "D0 00", "not a PUBACK"},
		{V311, "PUBACK id=1 10", "40 02 0001", ""},
		{V5, "SUBACK id=1", "90 04 0001 00 00", "has 1 Reason Codes"},
		{V5, "SUBACK id=1 00 00", "90 04 0001 00 00", "has 1 Reason Codes"},
		{V5, "PUBLISH topic=a qos=1 payload=x subid=2 subid=1 expiry=1..5 alias=1", publish, ""},
		{V5, "PUBLISH topic=a qos=1 payload=x subid=2 expiry=5 alias=1", publish, "subid=1 is not expected"},
		{V5, "PUBLISH topic=a qos=1 payload=x subid=2 subid=3 expiry=5 alias=1", publish, "subid=3 is missing"},
		{V5, "PUBLISH topic=a payload=x subid=2 subid=1 expiry=5 alias=1", publish, "qos=1 is not 0"},
		{V5, "PUBLISH topic=a qos=1 subid=2 subid=1 expiry=5 alias=1", publish, "payload=x is not"},
		{V5, "PUBLISH topic=a qos=1 id=$p payload=x subid=2 subid=1 expiry=5 alias=1", publish, ""},
		{V5, "PUBLISH topic=a qos=1 id=$q payload=x subid=2 subid=1 expiry=5 alias=1", publish, "id=7 is not 8"},
		{V5, "PUBLISH topic=a user:b=1 user:a=2", "30 12 0001 61 0E 26 0001 62 0001 31 26 0001 61 0001 32", ""},
		{V5, "PUBLISH topic=a user:a=2 user:b=1", "30 12 0001 61 0E 26 0001 62 0001 31 26 0001 61 0001 32", "order"},
	} {
		vars := map[string]string{"q": "8"}
		raw, err := hex.DecodeString(strings.ReplaceAll(c.packet, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		p, err := decode(c.version, raw)
		if err != nil {
			t.Fatalf("%s: %v", c.packet, err)
		}
		words, err := splitWords(c.line)
		if err != nil {
			t.Fatal(err)
		}
		e, err := parseExpectation(words, vars)
		if err != nil {
			t.Fatalf("%s: %v", c.line, err)
		}
		switch err := e.match(p, vars); {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s against %s: error is %v, want %q", c.line, p, err, c.want)
		case strings.Contains(c.line, "$p") && vars["p"] != "7":
			t.Errorf("%s: $p is %q", c.line, vars["p"])
		}
	}
}
