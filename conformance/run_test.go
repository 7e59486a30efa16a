package conformance

import (
	"bufio"
	"context"
	"encoding/hex"
	"net"
	"strings"
	"testing"
)

// TestRun: the runner notices a broker that does the wrong thing. The broker
// here answers the n-th packet of the client with the n-th of its answers, and
// closes after "-".
func TestRun(t *testing.T) {
	const connack = "20 03 00 00 00"
	for _, c := range []struct {
		script  string
		answers []string
		want    string // part of the error; empty means none
	}{
		{"connect", []string{connack, "D0 00"}, ""},
		{"connect", []string{"20 03 00 85 00"}, "Reason Code 85"},
		{"connect sp=1", []string{connack}, "sp=0 is not 1"},
		{"connect", []string{connack, "E0 02 8E 00"}, "at the end"},
		{"connect", []string{connack, "-"}, "the server closed"},
		{"connect\n> PINGREQ\n< EOF", []string{connack, "D0 00"}, "got PINGRESP"},
		{"connect\n> PINGREQ\n< EOF", []string{connack, "-"}, ""},
		{"connect\n> PINGREQ\n< maybe DISCONNECT 82\n< EOF", []string{connack, "E0 02 82 00 -"}, ""},
		{"connect\n> PINGREQ\n< maybe DISCONNECT 82\n< EOF", []string{connack, "-"}, ""},
		{"connect\n> PINGREQ\n< maybe DISCONNECT 82\n< EOF", []string{connack, "D0 00"}, "not a DISCONNECT"},
		{"connect\n> PINGREQ\n<? PINGRESP\n<? PUBACK id=1", []string{connack, "40 02 0001 D0 00", "D0 00"}, ""},
		{"connect\n> PINGREQ\n<? PINGRESP\n<? PUBACK id=1", []string{connack, "40 02 0001 40 02 0001"}, "none of 1 lines"},
		{"connect\n< silence", []string{connack, "40 02 0001"}, "instead of silence"},
		{"connect\nconnect", []string{connack}, "open already"},
		{"sub> PINGREQ", nil, "no connection"},
		{"connect\n> PINGREQ\nv5: < PINGRESP\nv311: < EOF", []string{connack, "D0 00", "D0 00"}, ""},
		{"open\nrefused", nil, "the server accepted"},
		{"connect\n> PINGREQ\n< PINGRESP", []string{connack, "D0 05 00 00 00 00 00"}, "left over"},
	} {
		cases, err := parse(t, "v5", "# t\n"+c.script)
		if err != nil {
			t.Fatal(err)
		}
		err = cases[0].Run(context.Background(), Target{TCP: answering(t, c.answers)}, "tcp", V5)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: error is %v, want %q", c.script, err, c.want)
		}
	}
}

// answering starts that broker and returns its address.
func answering(t *testing.T, answers []string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			answer(conn, answers)
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return ln.Addr().String()
}

func answer(conn net.Conn, answers []string) {
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(conn)
	for _, text := range answers {
		if _, err := readPacket(r); err != nil {
			return
		}
		hexadecimal, hangUp := strings.CutSuffix(text, "-")
		b, err := hex.DecodeString(strings.ReplaceAll(hexadecimal, " ", ""))
		if err != nil {
			panic(err)
		}
		if _, err := conn.Write(b); err != nil || hangUp {
			return
		}
	}
	_, _ = readPacket(r) // until the client is gone
}
