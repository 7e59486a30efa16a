package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/magpiemq/magpie/cmd/magpie/internal/text"
	"github.com/magpiemq/magpie/internal/loadgen"
)

// print writes the summary for people.
func (b *benchRun) print(w io.Writer) {
	fmt.Fprintln(w, b.Title)
	b.printConnections(w)
	if b.Seconds > 0 && b.plan.Publishers+b.plan.Subscribers > 0 {
		b.printMessages(w)
	}
	b.printBroker(w)
	b.printGenerator(w)
}

// row writes a line of the summary.
func row(w io.Writer, name, format string, args ...any) {
	fmt.Fprintf(w, "  %-12s %s\n", name, fmt.Sprintf(format, args...))
}

func (b *benchRun) printConnections(w io.Writer) {
	c := &b.Connections
	row(w, "connected", "%s of %s in %s, %s/s", thousands(float64(c.Connected)), thousands(float64(c.Wanted)), seconds(c.Seconds), thousands(c.PerSecond))
	if c.ConnackTime.Count > 0 {
		row(w, "CONNACK", "%s", quantiles(c.ConnackTime))
	}
	printReasons(w, "failed", c.Failures)
	printReasons(w, "ended", c.Losses)
}

// printReasons writes how many connections met which fate, the most frequent first.
func printReasons(w io.Writer, name string, reasons map[string]int) {
	all := make([]string, 0, len(reasons))
	for reason := range reasons {
		all = append(all, reason)
	}
	slices.SortFunc(all, func(a, b string) int {
		if n := reasons[b] - reasons[a]; n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	for _, reason := range all {
		row(w, name, "%s: %s", thousands(float64(reasons[reason])), text.Escape(reason))
	}
}

func (b *benchRun) printMessages(w io.Writer) {
	if b.plan.Publishers > 0 {
		row(w, "published", "%s in all; %s/s, %s/s", countWord(b.Sent, "message", "messages"), thousands(b.SentRate), megabytes(b.BytesOut))
	}
	if b.plan.Subscribers > 0 {
		row(w, "received", "%s in all; %s/s, %s/s", countWord(b.Received+b.foreign(), "message", "messages"), thousands(b.ReceivedRate), megabytes(b.BytesIn))
	}
	if b.Latency.Count > 0 {
		row(w, "latency", "%s", quantiles(b.Latency))
	}
	if b.Ack.Count > 0 {
		row(w, "acknowledged", "%s", quantiles(b.Ack))
	}
	if b.plan.Subscribers > 0 {
		row(w, "lost", "%s, duplicated %s, out of order %s", thousands(float64(b.Lost)), thousands(float64(b.Duplicated)), thousands(float64(b.OutOfOrder)))
	}
	for _, n := range []struct {
		name  string
		count uint64
		what  string
	}{
		{"refused", b.Refused, "messages, by PUBACK or PUBREC"},
		{"foreign", b.Foreign, "messages that are not of a benchmark of this run"},
		{"stalled", b.Stalls, "times: nothing came for a second"},
		{"throttled", b.Throttled, "times no publisher could send what was due"},
	} {
		if n.count > 0 {
			row(w, n.name, "%s %s", thousands(float64(n.count)), n.what)
		}
	}
}

// foreign are messages that count as received when nobody here publishes.
func (b *benchRun) foreign() uint64 {
	if b.plan.Publishers > 0 {
		return 0
	}
	return b.Foreign
}

func (b *benchRun) printBroker(w io.Writer) {
	u := b.Broker
	if u == nil {
		if b.plan.PID > 0 && b.Seconds > 0 {
			row(w, "broker", "process %d has ended", b.plan.PID)
		}
		return
	}
	words := []string{fmt.Sprintf("process %d: %.2f processors", u.PID, u.CPU)}
	if u.PerMessage > 0 {
		words = append(words, fmt.Sprintf("%.3g µs per message", u.PerMessage))
	}
	words = append(words, fmt.Sprintf("%s of memory, %s per connection", sizeWord(u.RSS), sizeWord(max(0, int64(u.PerConnection)))))
	row(w, "broker", "%s", strings.Join(words, ", "))
}

func (b *benchRun) printGenerator(w io.Writer) {
	g := &b.Generator
	if b.Seconds == 0 || b.plan.Publishers+b.plan.Subscribers == 0 {
		return
	}
	row(w, "generator", "busy %.0f %%, %.2f processors, %s", g.Busy*100, g.CPU, g.Core)
	if g.Limit {
		fmt.Fprintf(w, "the generator was the limit: its loop was busy %.0f %%\n", g.Busy*100)
	}
}

// quantiles writes a distribution of times.
func quantiles(l loadgen.Latency) string {
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, p99.9 %s, max %s", micros(l.P50), micros(l.P90), micros(l.P99), micros(l.P999), micros(l.Max))
}

// micros writes a time given in microseconds, with three digits.
func micros(us float64) string {
	switch {
	case us < 999.5:
		return fmt.Sprintf("%.3g µs", us)
	case us < 999_500:
		return fmt.Sprintf("%.3g ms", us/1e3)
	}
	return seconds(us / 1e6)
}

func seconds(s float64) string { return fmt.Sprintf("%.3g s", s) }

func megabytes(n float64) string { return fmt.Sprintf("%.1f MB", n/1e6) }

// thousands writes a number without fraction, in groups of three digits.
func thousands(n float64) string {
	s := fmt.Sprintf("%.0f", n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// liveLine is one line on a terminal that tells how a run goes.
type liveLine struct {
	out   io.Writer // nil when there is no terminal
	width int
}

// show replaces what the line says.
func (l *liveLine) show(p loadgen.Progress) {
	line := fmt.Sprintf("connecting: %s of %s", thousands(float64(p.Connected)), thousands(float64(p.Wanted)))
	if p.Failed > 0 {
		line += fmt.Sprintf(", %s failed", thousands(float64(p.Failed)))
	}
	if p.Measuring {
		line = fmt.Sprintf("%v: %s/s out, %s/s in, p99 %s, %s under way", p.Elapsed.Round(time.Second), thousands(p.Sent), thousands(p.Received),
			micros(p.P99), thousands(float64(max(0, p.Lost))))
	}
	pad := max(0, l.width-len(line))
	fmt.Fprint(l.out, "\r"+line+strings.Repeat(" ", pad))
	l.width = len(line)
}

// end clears the line.
func (l *liveLine) end() {
	if l.width > 0 {
		fmt.Fprint(l.out, "\r"+strings.Repeat(" ", l.width)+"\r")
	}
}
