package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// subCmd subscribes and prints what comes.
type subCmd struct {
	Names []argument `arg:"" optional:"" name:"filter" help:"Topic filters, if not given by -t."`

	Filters     arguments `name:"topic" short:"t" placeholder:"FILTER" help:"Topic filter to subscribe to; may be repeated."`
	QoS         int       `name:"qos" short:"q" placeholder:"QOS" help:"Highest quality of service: 0, 1 or 2 (0)."`
	Count       int       `short:"C" placeholder:"N" help:"Leave after so many messages."`
	Wait        float64   `name:"timeout" short:"W" placeholder:"SECONDS" help:"Leave after so many seconds; with -C that is a failure."`
	Once        bool      `name:"exit-after-subscribe" short:"E" help:"Leave when the broker has answered the subscription."`
	NoStale     bool      `name:"no-retained" short:"R" help:"Do not print retained messages."`
	OnlyStale   bool      `name:"retained-only" help:"Print retained messages only, and leave at the first other one."`
	FilterOut   arguments `name:"filter-out" short:"T" placeholder:"FILTER" help:"Do not print what matches; may be repeated."`
	Unsubscribe arguments `short:"U" placeholder:"FILTER" help:"Unsubscribe from this first; may be repeated."`
	Clear       bool      `name:"remove-retained" help:"Remove each retained message that is printed from the broker."`
	AsPublished bool      `name:"retain-as-published" help:"Show the retain flag as it was published (MQTT 5.0)."`
	encodingFlags
	printFlags
	reconnectFlag
	connFlags
}

// Help is shown by kong below the usage line.
func (*subCmd) Help() string {
	return examples(
		"magpie sub -v 'bins/#'", "each message with its topic; when the broker goes away, on with it when it is back",
		"magpie sub -C 1 -W 10 room/103/temp", "one message within 10 seconds, or exit code 1",
		"magpie sub -F '%I %t %p' 'room/+/temp'", "time, topic, payload",
		"magpie sub --json 'bins/#' | jq .payload", "for programs",
		"magpie sub -i logger -c -q 1 'log/#'", "continue where the last run with this client id has stopped",
	)
}

// Run connects, subscribes, and prints until something ends it.
func (s *subCmd) Run() error {
	cfg, err := s.config("subscribe", "unsubscribe")
	if err == nil {
		err = s.check(cfg.Version)
	}
	var p *printer
	if err == nil {
		p, err = s.printer(s.encodingFlags)
	}
	if err != nil {
		return usage(err, "")
	}
	ctx, stop := interruptible()
	defer stop()
	return s.hush(s.subscribe(ctx, cfg, p))
}

// check finds what is wrong with the flags before anything is sent.
func (s *subCmd) check(v mqtt.Version) error {
	for _, n := range s.Names {
		s.Filters = append(s.Filters, string(n))
	}
	if s.urlTopic != "" {
		s.Filters = append(s.Filters, s.urlTopic)
	}
	for _, f := range slices.Concat(s.Filters, s.FilterOut, s.Unsubscribe) {
		if err := topic.ValidateFilter(f, topic.Limits{}); err != nil {
			return fmt.Errorf("%q: %w", f, err)
		}
	}
	switch {
	case len(s.Filters) == 0 && len(s.Unsubscribe) == 0 && !s.Keep:
		return errors.New("nothing to subscribe to: give -t FILTER")
	case s.NoStale && s.OnlyStale:
		return errors.New("-R and --retained-only exclude each other")
	case s.Count < 0 || s.Wait < 0:
		return errors.New("-C and -W must not be negative")
	case s.AsPublished && v != mqtt.V5:
		return fmt.Errorf("--retain-as-published needs MQTT 5.0, not %v", v)
	}
	return checkQoS("-q", s.QoS)
}

// subscribe does the work.
func (s *subCmd) subscribe(ctx context.Context, cfg client.Config, p *printer) error {
	r := &receiver{sub: s, printer: p, left: s.Count, enough: make(chan struct{}), gone: make(chan struct{})}
	cfg.Handler = r.handle
	l := newLink(&s.connFlags, cfg, &s.reconnectFlag, !s.Once)
	if l.patient {
		var cancel context.CancelFunc
		ctx, cancel = withLimit(ctx, s.Wait)
		defer cancel()
	}
	c, err := l.first(ctx)
	if err != nil {
		return err
	}
	if !l.patient {
		var cancel context.CancelFunc
		ctx, cancel = withLimit(ctx, s.Wait)
		defer cancel()
	}
	c, err = s.follow(ctx, l, c, r)
	return s.leave(ctx, l, c, r, err)
}

// follow prints what comes over one connection after the other. It returns the last one.
func (s *subCmd) follow(ctx context.Context, l *link, c *client.Conn, r *receiver) (last *client.Conn, err error) {
	asked := false
	for {
		if !asked || !c.Connack().SessionPresent {
			err = s.ask(ctx, c)
			asked = err == nil
		}
		if c.Err() != nil || err == nil && !s.Once {
			err = s.wait(ctx, c, r)
		}
		if err == nil || c.Err() == nil {
			return c, err
		}
		var next *client.Conn
		if next, err = l.next(ctx, c); err != nil {
			return c, err
		}
		c = next
	}
}

// leave ends the last connection and returns the error of the command, for which err is that of what was done so far.
func (s *subCmd) leave(ctx context.Context, l *link, c *client.Conn, r *receiver, err error) error {
	if bye := l.goodbye(c); err == nil && bye != nil {
		err = plainEnd(c.Err())
	}
	close(r.gone)
	<-c.Done() // the handler has returned: r is ours
	if r.err != nil {
		return fmt.Errorf("printing: %w", r.err)
	}
	return s.timeUp(ctx, err)
}

// timeUp judges an end that a signal or the time may have brought about: both are how one ends a subscription.
func (s *subCmd) timeUp(ctx context.Context, err error) error {
	switch {
	case ctx.Err() == nil:
		return err
	case errors.Is(context.Cause(ctx), errTimeUp) && s.Count > 0:
		return fmt.Errorf("timed out: fewer than %d messages in %v seconds", s.Count, s.Wait)
	}
	return nil
}

// ask ends and makes the subscriptions.
func (s *subCmd) ask(ctx context.Context, c *client.Conn) error {
	if len(s.Unsubscribe) > 0 {
		props, _ := s.Props.properties("unsubscribe") // was checked
		if _, err := c.UnsubscribeWith(ctx, props, s.Unsubscribe...); err != nil {
			return err
		}
	}
	if len(s.Filters) == 0 {
		return nil
	}
	subs := make([]mqtt.Subscription, len(s.Filters))
	for i, f := range s.Filters {
		subs[i] = mqtt.Subscription{Filter: f, QoS: mqtt.QoS(s.QoS), RetainAsPublished: s.AsPublished}
	}
	props, _ := s.Props.properties("subscribe")
	codes, err := c.SubscribeWith(ctx, props, subs...)
	for i, code := range codes {
		s.debug("subscribed to %q: %s", s.Filters[i], code.String())
	}
	if len(codes) > 0 && slices.ContainsFunc(codes, func(code mqtt.ReasonCode) bool { return !code.Failed() }) && err != nil {
		warn(err) // the others are granted
		return nil
	}
	return err
}

// warn says what does not end the command.
func warn(err error) { fmt.Fprintf(os.Stderr, "magpie: %v\n", err) }

// wait lasts until there is enough, ctx is done or the connection has ended, which is the error.
func (s *subCmd) wait(ctx context.Context, c *client.Conn, r *receiver) error {
	select {
	case <-r.enough:
		return nil
	case <-c.Done():
		select { // both happened
		case <-r.enough:
			return nil
		default:
		}
		return plainEnd(c.Err())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receiver prints messages. Its fields belong to the handler until the connection is done.
type receiver struct {
	sub     *subCmd
	printer *printer
	left    int           // messages to print; zero for any number
	enough  chan struct{} // closed when nothing more is to be printed
	gone    chan struct{} // closed when the connection is
	err     error         // of stdout
}

// handle is the connection's handler.
func (r *receiver) handle(d *client.Delivery) {
	s := r.sub
	switch {
	case s.OnlyStale && !d.Message.Retain:
		r.finish()
		return
	case s.NoStale && d.Message.Retain, r.filteredOut(d.Message.Topic):
		return
	}
	if r.err = r.printer.show(d); r.err != nil {
		r.finish()
		return
	}
	if s.Clear && d.Message.Retain {
		if _, err := d.Conn().Start(context.Background(), &mqtt.Message{Topic: d.Message.Topic, Retain: true}); err != nil {
			warn(err)
		}
	}
	if r.left > 0 {
		if r.left--; r.left == 0 {
			d.Acknowledge()
			r.finish()
		}
	}
}

// finish says that there is enough, and keeps what has arrived beyond it from being acknowledged: it was not printed.
func (r *receiver) finish() {
	close(r.enough)
	<-r.gone
}

func (r *receiver) filteredOut(name string) bool {
	return slices.ContainsFunc(r.sub.FilterOut, func(f string) bool { return topic.Match(f, name) })
}
