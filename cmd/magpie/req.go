package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// reqCmd publishes a request and prints the response.
type reqCmd struct {
	Name    argument  `arg:"" optional:"" name:"topic" help:"Topic of the request, if not given by -t."`
	Payload *argument `arg:"" optional:"" name:"message" help:"Message, if not given by -m, -f, -n or -s."`

	Response argument `name:"response-topic" short:"e" placeholder:"TOPIC" help:"Topic of the response (one of its own; MQTT 3 needs -e)."`
	Wait     float64  `name:"timeout" short:"W" default:"60" placeholder:"SECONDS" help:"Give up after so many seconds; 0 waits for ever (60)."`
	Count    int      `short:"C" default:"1" placeholder:"N" help:"Wait for so many responses; 0 takes all that come in the time of -W (1)."`
	NoStale  bool     `name:"no-retained" short:"R" help:"Do not take a retained message for the response (with MQTT 5.0 never done)."`

	Topic   argument  `short:"t" placeholder:"TOPIC" help:"Topic of the request."`
	Message *argument `short:"m" placeholder:"TEXT" help:"Send this."`
	File    argument  `short:"f" placeholder:"FILE" help:"Send the content of a file."`
	Null    bool      `name:"null-message" short:"n" help:"Send an empty message."`
	Stdin   bool      `name:"stdin-file" short:"s" help:"Send all of stdin."`
	QoS     int       `name:"qos" short:"q" placeholder:"QOS" help:"Quality of service of both messages: 0, 1 or 2 (0)."`
	encodingFlags
	printFlags
	connFlags
}

// Help is shown by kong below the usage line.
func (*reqCmd) Help() string {
	return examples(
		"magpie req lamps/kitchen/get state -W 5", "ask, and wait for the answer at most 5 seconds",
		"magpie req -v lamps/all/get state -C 0 -W 2", "whoever answers within 2 seconds",
		"magpie req -V 311 -e answers/me -t lamps/kitchen/get -m state", "MQTT 3.1.1: both sides have agreed on a topic for the answer",
		"magpie req --hex -t plc/1 -m '01 03 00 6b 00 03'", "bytes that are no text, in both directions",
	) + "\nThe answering side publishes to the request's Response Topic, with its Correlation Data."
}

// Run connects, asks, and prints the answer.
func (r *reqCmd) Run() error {
	cfg, err := r.config("publish", "subscribe")
	p := r.request()
	if err == nil {
		if err = p.check(); errors.Is(err, errNothing) {
			err = errors.New("nothing to send: give one of -m, -f, -n, -s")
		}
	}
	if err == nil {
		err = r.check(cfg.Version)
	}
	var m mqtt.Message
	if err == nil {
		m, err = p.given()
	}
	var out *printer
	if err == nil {
		out, err = r.printer(r.encodingFlags)
	}
	if err != nil {
		return usage(err, "")
	}
	if err := p.read(&m); err != nil {
		return r.hush(err)
	}
	ctx, stop := interruptible()
	defer stop()
	return r.hush(r.ask(ctx, cfg, m, out))
}

// request is the part of pub that req shares.
func (r *reqCmd) request() *pubCmd {
	return &pubCmd{Name: r.Name, Payload: r.Payload, Topic: r.Topic, Message: r.Message, File: r.File, Null: r.Null, Stdin: r.Stdin, QoS: r.QoS, encodingFlags: r.encodingFlags,
		connFlags: connFlags{urlTopic: r.urlTopic}}
}

func (r *reqCmd) check(v mqtt.Version) error {
	if r.Response != "" {
		if err := topic.ValidateName(string(r.Response), topic.Limits{}); err != nil {
			return fmt.Errorf("-e: %w", err)
		}
	}
	switch {
	case r.Response == "" && v != mqtt.V5:
		return fmt.Errorf("MQTT %v cannot tell the other side where to answer: name the topic with -e", v)
	case r.Wait < 0 || r.Count < 0:
		return errors.New("-W and -C must not be negative")
	case r.Wait == 0 && r.Count == 0:
		return errors.New("-C 0 needs a time: -W SECONDS")
	}
	return nil
}

// ask does the work.
func (r *reqCmd) ask(ctx context.Context, cfg client.Config, m mqtt.Message, out *printer) error {
	in := answers{taken: make(chan *client.Delivery), gone: make(chan struct{}), noStale: r.NoStale}
	cfg.Handler = in.handle
	if cfg.Version == mqtt.V5 && r.Response == "" {
		if _, given := cfg.Props.Int(mqtt.RequestResponseInformation); !given {
			cfg.Props = cfg.Props.WithInt(mqtt.RequestResponseInformation, 1)
		}
	}
	var expiry *uint32
	m.Props, expiry = r.Props.ofMessage()
	if data, given := m.Props.Bytes(mqtt.CorrelationData); given {
		in.correlation = data
	} else if cfg.Version == mqtt.V5 {
		in.correlation = []byte(rand.Text())
		m.Props = m.Props.WithString(mqtt.CorrelationData, string(in.correlation))
	}
	c, err := r.dial(ctx, cfg)
	if err != nil {
		return err
	}
	s := sender{ctx: ctx, out: oneConn{c, &r.connFlags}, message: m, expiry: expiry, one: true}
	err = r.exchange(&s, c, &in, out)
	bye := r.goodbye(c)
	close(in.gone) // after that: what nobody took stays unacknowledged
	<-c.Done()
	switch {
	case ctx.Err() != nil:
		return ended(ctx)
	case err == nil && bye != nil:
		return plainEnd(c.Err())
	}
	return err
}

// answers takes what comes on the response topic.
type answers struct {
	correlation []byte // set before anything is subscribed to
	noStale     bool
	taken       chan *client.Delivery
	gone        chan struct{} // closed when nobody takes any more
}

// handle is the connection's handler. What nobody takes is not acknowledged.
func (a *answers) handle(d *client.Delivery) {
	got, marked := d.Message.Props.Bytes(mqtt.CorrelationData)
	if a.noStale && d.Message.Retain || marked && !bytes.Equal(got, a.correlation) {
		return // somebody else's
	}
	select {
	case a.taken <- d.Keep():
		d.Acknowledge()
	case <-a.gone:
	}
}

// exchange subscribes, sends the request and prints the answers.
func (r *reqCmd) exchange(s *sender, c *client.Conn, in *answers, out *printer) error {
	name := r.responseTopic(c)
	props, _ := r.Props.properties("subscribe") // was checked
	sub := mqtt.Subscription{Filter: name, QoS: mqtt.QoS(r.QoS)}
	if c.Version() == mqtt.V5 {
		sub.RetainHandling = mqtt.DoNotSendRetained
		s.message.Props = s.message.Props.Without(mqtt.ResponseTopic).WithString(mqtt.ResponseTopic, name)
	}
	if _, err := c.SubscribeWith(s.ctx, props, sub); err != nil {
		return err
	}
	r.debug("waiting for the response on %q", name)
	if err := s.send(s.repeated(1, 0)); err != nil {
		return err
	}
	return r.await(s, c, in, out)
}

// await prints answers until there are enough, or time is over.
func (r *reqCmd) await(s *sender, c *client.Conn, in *answers, out *printer) error {
	timed, cancel := withLimit(s.ctx, r.Wait)
	defer cancel()
	for n := 0; n < r.Count || r.Count == 0; n++ {
		select {
		case d := <-in.taken:
			if err := out.show(d); err != nil {
				return fmt.Errorf("printing: %w", err)
			}
		case <-c.Done():
			return plainEnd(c.Err())
		case <-timed.Done():
			return r.missing(n, s.message.Topic)
		}
	}
	return nil
}

// missing judges the end of the time after n answers.
func (r *reqCmd) missing(n int, name string) error {
	switch {
	case n == 0:
		return hinted(fmt.Errorf("no response in %v seconds", r.Wait), fmt.Sprintf("does anybody answer on %q?", r.Topic))
	case r.Count == 0:
		return nil
	}
	return fmt.Errorf("%d of %d responses in %v seconds", n, r.Count, r.Wait)
}

// responseTopic returns the topic to be answered on: -e, -D publish response-topic, one below what the broker suggests, or a random one.
func (r *reqCmd) responseTopic(c *client.Conn) string {
	if r.Response != "" {
		return string(r.Response)
	}
	props, _ := r.Props.properties("publish") // was checked
	if name := props.String(mqtt.ResponseTopic); name != "" {
		return name
	}
	ack := c.Connack()
	if base := ack.Props.String(mqtt.ResponseInformation); base != "" && topic.ValidateName(base, topic.Limits{}) == nil {
		return base + "/" + rand.Text()
	}
	return "reply/" + rand.Text()
}
