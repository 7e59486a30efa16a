package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/magpiemq/magpie/api"
	"github.com/magpiemq/magpie/cmd/magpie/internal/text"
)

// commands are what the console can do, in the order of help.
func commands() []command {
	return []command{
		{"clients", "[all]", "who is connected; with all, also the sessions of those who are not", 1, (*console).clients},
		{"subs", "CLIENT", "the subscriptions of a client", 1, (*console).subs},
		{"kick", "CLIENT [forget]", "disconnect a client; with forget, end its session too", 2, (*console).kick},
		{"stats", "", "numbers of the broker", 0, (*console).stats},
		{"top", "", "messages per second, and where messages pile up", 0, (*console).top},
		{"trace", "on|off|CLIENT|topic [FILTER]", "show messages: all, none, those of a client, those that match a filter", 2, (*console).trace},
		{"reload", "", "read the configuration, users, access control list and certificates again", 0, (*console).reload},
		{"help", "", "this list", 0, (*console).help},
		{"exit", "", "stop the broker in serve --console, leave the console otherwise", 0, (*console).exit},
		{"shutdown", "", "stop the broker", 0, (*console).shutdown},
	}
}

// timeLayout is how points in time are shown.
const timeLayout = "2006-01-02 15:04:05"

func (c *console) clients(ctx context.Context, args []string) error {
	all := len(args) == 1
	if all && args[0] != "all" {
		return usagef("usage: clients [all]")
	}
	list, err := c.client.Clients(ctx, all)
	if err != nil {
		return err
	}
	rows := [][]string{{"CLIENT", "VERSION", "ADDRESS", "USER", "SINCE", "SUBSCRIPTIONS", "QUEUED"}}
	for _, k := range list {
		since := k.Since.Local().Format(timeLayout)
		if !k.Connected {
			since = "gone " + since
		}
		rows = append(rows, []string{
			word(k.ClientID), k.Version, text.Escape(k.Address), userWord(k.User), since, fmt.Sprint(k.Subscriptions), fmt.Sprint(k.QueuedMessages),
		})
	}
	c.table(rows)
	if all {
		c.print("%s", count(len(list), "session"))
	} else {
		c.print("%s connected", count(len(list), "client"))
	}
	return nil
}

func userWord(user string) string {
	if user == "" {
		return "-"
	}
	return word(user)
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// table writes rows in columns, at once.
func (c *console) table(rows [][]string) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush() // to memory
	_, _ = c.out.Write(b.Bytes())
}

func (c *console) subs(ctx context.Context, args []string) error {
	list, err := c.client.Subscriptions(ctx, args[0])
	if err != nil {
		return err
	}
	rows := [][]string{{"FILTER", "QOS", "OPTIONS"}}
	for _, s := range list {
		rows = append(rows, []string{word(s.Filter), fmt.Sprint(s.QoS), subscriptionOptions(s)})
	}
	c.table(rows)
	c.print("%s", count(len(list), "subscription"))
	return nil
}

func subscriptionOptions(s api.Subscription) string {
	switch {
	case s.NoLocal && s.RetainAsPublished:
		return "no-local retain-as-published"
	case s.NoLocal:
		return "no-local"
	case s.RetainAsPublished:
		return "retain-as-published"
	}
	return "-"
}

func (c *console) kick(ctx context.Context, args []string) error {
	forget := len(args) == 2
	if forget && args[1] != "forget" {
		return usagef("usage: kick CLIENT [forget]")
	}
	if err := c.client.Kick(ctx, args[0], forget); err != nil {
		return err
	}
	c.print("kicked %s", word(args[0]))
	return nil
}

func (c *console) stats(ctx context.Context, _ []string) error {
	st, err := c.client.Stats(ctx)
	if err != nil {
		return err
	}
	rows := [][]string{
		{"version", st.Version},
		{"up since", st.Started.Local().Format(timeLayout)},
		{"connections", fmt.Sprint(st.Connections)},
		{"clients", fmt.Sprintf("%d (at most %d)", st.Connected, st.MaxConnected)},
		{"sessions", fmt.Sprint(st.Sessions)},
		{"subscriptions", fmt.Sprint(st.Subscriptions)},
		{"retained", fmt.Sprintf("%s, %d bytes", count(st.Retained, "message"), st.RetainedBytes)},
		{"queued", fmt.Sprintf("%s, %d bytes", count(int(st.QueuedMessages), "message"), st.QueuedBytes)},
		{"received", fmt.Sprintf("%s (QoS 0/1/2: %s), %d bytes", count(int(sum(st.MessagesReceived)), "message"), slashes(st.MessagesReceived), st.BytesReceived)},
		{"sent", fmt.Sprintf("%s (QoS 0/1/2: %s), %d bytes", count(int(sum(st.MessagesSent)), "message"), slashes(st.MessagesSent), st.BytesSent)},
		{"refused", count(int(st.Refused), "message")},
		{"dropped", dropWords(st.Dropped)},
	}
	c.table(rows)
	return nil
}

func sum(n [3]int64) int64 { return n[0] + n[1] + n[2] }

func slashes(n [3]int64) string { return fmt.Sprintf("%d/%d/%d", n[0], n[1], n[2]) }

// dropWords lists the reasons for which messages were dropped at all.
func dropWords(dropped map[string]int64) string {
	total, reasons := int64(0), []string(nil)
	for _, r := range slices.Sorted(maps.Keys(dropped)) {
		if n := dropped[r]; n > 0 {
			total += n
			reasons = append(reasons, fmt.Sprintf("%s %d", r, n))
		}
	}
	if total == 0 {
		return "0 messages"
	}
	return fmt.Sprintf("%s (%s)", count(int(total), "message"), strings.Join(reasons, ", "))
}

// topInterval is the time over which top counts.
const topInterval = time.Second

func (c *console) top(ctx context.Context, _ []string) error {
	before, err := c.client.Stats(ctx)
	if err != nil {
		return err
	}
	select {
	case <-time.After(topInterval):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := c.client.Stats(ctx)
	if err != nil {
		return err
	}
	list, err := c.client.Clients(ctx, true)
	if err != nil {
		return err
	}
	c.print("in %d messages/s, %d bytes/s; out %d messages/s, %d bytes/s; %s",
		sum(after.MessagesReceived)-sum(before.MessagesReceived), after.BytesReceived-before.BytesReceived,
		sum(after.MessagesSent)-sum(before.MessagesSent), after.BytesSent-before.BytesSent, count(after.Connected, "client"))
	c.piles(list)
	return nil
}

// piles shows the sessions in which most is waiting.
func (c *console) piles(list []api.Client) {
	list = slices.DeleteFunc(list, func(k api.Client) bool { return k.QueuedMessages+k.InFlight == 0 })
	slices.SortStableFunc(list, func(x, y api.Client) int { return cmp.Compare(y.QueuedBytes, x.QueuedBytes) })
	if len(list) == 0 {
		return
	}
	rows := [][]string{{"CLIENT", "QUEUED", "BYTES", "UNACKNOWLEDGED"}}
	for _, k := range list[:min(10, len(list))] {
		rows = append(rows, []string{word(k.ClientID), fmt.Sprint(k.QueuedMessages), fmt.Sprint(k.QueuedBytes), fmt.Sprint(k.InFlight)})
	}
	c.table(rows)
}

func (c *console) trace(ctx context.Context, args []string) error {
	client, filter := "", ""
	switch {
	case args[0] == "off" && len(args) == 1:
		c.stopTraces()
		c.print("trace is off")
		return nil
	case args[0] == "on" && len(args) == 1:
	case args[0] == "topic" && len(args) == 2:
		filter = args[1]
	case len(args) == 1:
		client = args[0]
	default:
		return usagef("usage: trace on|off|CLIENT, or trace topic FILTER")
	}
	stop, err := c.client.Trace(ctx, client, filter, c.showEvent)
	if err != nil {
		return err
	}
	c.traces = append(c.traces, stop)
	c.print("trace is on; trace off ends it")
	return nil
}

func (c *console) reload(ctx context.Context, _ []string) error {
	if err := c.client.Reload(ctx); err != nil {
		return err
	}
	c.print("reloaded")
	return nil
}

func (c *console) help(context.Context, []string) error {
	var rows [][]string
	for _, k := range commands() {
		rows = append(rows, []string{strings.TrimSpace(k.name + " " + k.args), k.help})
	}
	c.table(rows)
	c.print(`A client with blanks in its id is written in quotes: kick "my client"`)
	return nil
}

// exit leaves; in serve --console that stops the broker.
func (c *console) exit(context.Context, []string) error { return errLeave }

func (c *console) shutdown(ctx context.Context, _ []string) error {
	if c.local {
		return errLeave
	}
	if err := c.client.Shutdown(ctx); err != nil {
		return err
	}
	c.print("the broker stops")
	return errLeave
}

// showEvent writes one event as one line.
func (c *console) showEvent(e api.Event) {
	c.print("%s %s", e.Time.Local().Format(time.TimeOnly), eventWords(e))
}

func eventWords(e api.Event) string {
	reason := ""
	if e.Reason != "" {
		reason = ": " + text.Escape(e.Reason)
	}
	switch e.Kind {
	case api.Connected:
		return fmt.Sprintf("%s connected: MQTT %s from %s, user %s", word(e.Client), e.Version, text.Escape(e.Address), userWord(e.User))
	case api.Disconnected:
		return fmt.Sprintf("%s disconnected%s", word(e.Client), reason)
	case api.Refused:
		if e.Address == "" {
			return "a connection was refused" + reason
		}
		return fmt.Sprintf("%s refused: client %s, user %s%s", text.Escape(e.Address), word(e.Client), userWord(e.User), reason)
	case api.Lost:
		return fmt.Sprintf("(%s not shown: they come too fast)", count(int(e.Count), "line"))
	}
	return messageWords(e, reason)
}

// messageWords shows a message: whose, what happened to it, topic, QoS, retain, payload.
func messageWords(e api.Event, reason string) string {
	client := "(the broker)"
	if e.Client != "" {
		client = word(e.Client)
	}
	retain := ""
	if e.Retain {
		retain = ", retain"
	}
	payload := text.Payload(e.Payload, api.PayloadShown)
	if more := e.Size - len(e.Payload); more > 0 {
		payload += fmt.Sprintf("… (+%s)", count(more, "byte"))
	}
	happened := map[string]string{api.Published: "published", api.Delivered: "received", api.Dropped: "did not get"}[e.Kind]
	if e.Kind == api.Dropped {
		happened += " (" + strings.TrimPrefix(reason, ": ") + ")"
	}
	return fmt.Sprintf("%s %s %s (QoS %d%s): %s", client, happened, word(e.Topic), e.QoS, retain, payload)
}
