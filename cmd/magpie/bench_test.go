package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/magpiemq/magpie/internal/loadgen"
	"github.com/magpiemq/magpie/mqtt"
)

// TestNumbersForPeople are those of summaries.
func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567.4: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%v: %s", n, got)
		}
	}
	for us, want := range map[float64]string{0.5: "0.5 µs", 999.4: "999 µs", 999.6: "1 ms", 12_345: "12.3 ms", 999_400: "999 ms", 999_600: "1 s", 61_000_000: "61 s"} {
		if got := micros(us); got != want {
			t.Errorf("%v µs: %s", us, got)
		}
	}
}

// TestLiveLine overwrites what it has said before.
func TestLiveLine(t *testing.T) {
	var out strings.Builder
	l := &liveLine{out: &out}
	l.end()
	l.show(loadgen.Progress{Wanted: 10_000, Connected: 9_000, Failed: 12})
	l.show(loadgen.Progress{Measuring: true, Elapsed: 2400 * time.Millisecond, Sent: 1000, Received: 999, P99: 1500, Lost: 20})
	l.show(loadgen.Progress{Wanted: 1})
	l.end()
	lines := strings.Split(out.String(), "\r")
	want := []string{"", "connecting: 9,000 of 10,000, 12 failed", "2s: 1,000/s out, 999/s in, p99 1.5 ms, 20 under way", "connecting: 0 of 1", "", ""}
	if len(lines) != len(want) {
		t.Fatalf("lines: %q", lines)
	}
	for i := range lines {
		if strings.TrimRight(lines[i], " ") != want[i] {
			t.Errorf("%q, want %q", lines[i], want[i])
		}
		if i > 1 && i < 4 && len(lines[i]) < len(want[i-1]) {
			t.Errorf("%q leaves some of %q", lines[i], want[i-1])
		}
	}
}

// TestVerdict says which runs have failed.
func TestVerdict(t *testing.T) {
	refused := errors.New("no")
	tests := []struct {
		report loadgen.Report
		want   string
	}{
		{loadgen.Report{Lost: 5, OutOfOrder: 7}, ""},
		{loadgen.Report{Connections: loadgen.Connections{Wanted: 5, Failed: 2, Err: refused}}, "2 of 5 connections failed, the first: no"},
		{loadgen.Report{Connections: loadgen.Connections{Lost: 1}}, "1 connection ended too early"},
		{loadgen.Report{Lost: 1, LostAcked: 1}, "1 delivery of acknowledged messages did not come"},
		{loadgen.Report{Duplicated: 2000}, "2,000 messages of QoS 2 came twice"},
	}
	for _, test := range tests {
		b := &benchRun{plan: loadgen.Plan{QoS: mqtt.ExactlyOnce, SubQoS: mqtt.ExactlyOnce}, Report: &test.report}
		err := b.verdict("mqtt://127.0.0.1")
		if got := ""; err != nil {
			if got = err.Error(); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		} else if test.want != "" {
			t.Errorf("no error, want %q", test.want)
		}
	}
	b := &benchRun{plan: loadgen.Plan{QoS: mqtt.AtLeastOnce, SubQoS: mqtt.AtLeastOnce}, Report: &loadgen.Report{Duplicated: 1}}
	if err := b.verdict(""); err != nil {
		t.Errorf("QoS 1 may come twice: %v", err)
	}
}

// TestSummaryOfATroubledRun names everything that is not as it should be.
func TestSummaryOfATroubledRun(t *testing.T) {
	b := &benchRun{Title: "trouble", plan: loadgen.Plan{Publishers: 1, Subscribers: 1, PID: 7}, Report: &loadgen.Report{
		Connections: loadgen.Connections{Wanted: 9, Connected: 2, Failures: map[string]int{"x\x1b": 1, "y": 4, "a": 1}, Losses: map[string]int{"z": 1}},
		Seconds:     1, Sent: 10, Refused: 1, Foreign: 2, Stalls: 3, Throttled: 4, Lost: 5, Duplicated: 6, OutOfOrder: 7,
		Generator: loadgen.Generator{Busy: 0.97, CPU: 0.99, Limit: true, Core: "epoll"},
	}}
	var out strings.Builder
	b.print(&out)
	for _, want := range []string{
		"  failed       4: y\n  failed       1: a\n  failed       1: x\\x1b\n  ended        1: z\n", "lost         5, duplicated 6, out of order 7\n",
		"refused      1 ", "foreign      2 ", "stalled      3 ", "throttled    4 ", "broker       process 7 has ended\n",
		"the generator was the limit: its loop was busy 97 %\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in:\n%s", want, out.String())
		}
	}
}
