package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// reqCmd publishes a request and prints the response.
type reqCmd struct {
	Response argument `name:"response-topic" short:"e" placeholder:"TOPIC" help:"Topic of the response (one of its own; MQTT 3 needs -e)."`
	Wait     float64  `name:"timeout" short:"W" default:"60" placeholder:"SECONDS" help:"Give up after so many seconds; 0 waits for ever (60)."`
	NoStale  bool     `name:"no-retained" short:"R" help:"Do not take a retained message for the response (with MQTT 5.0 never done)."`

	Topic   argument  `short:"t" placeholder:"TOPIC" help:"Topic of the request."`
	Message *argument `short:"m" placeholder:"TEXT" help:"Send this."`
	File    argument  `short:"f" placeholder:"FILE" help:"Send the content of a file."`
	Null    bool      `name:"null-message" short:"n" help:"Send an empty message."`
	Stdin   bool      `name:"stdin-file" short:"s" help:"Send all of stdin."`
	QoS     int       `name:"qos" short:"q" placeholder:"QOS" help:"Quality of service of both messages: 0, 1 or 2 (0)."`
	printFlags
	connFlags
}

// Help is shown by kong below the flags.
func (*reqCmd) Help() string {
	return "Example:\n\n  magpie req -t lamps/kitchen/get -m state -W 5\n\nThe answering side publishes to the request's response topic, with its correlation data."
}

// Run connects, asks, and prints the answer.
func (r *reqCmd) Run() error {
	cfg, err := r.config("publish", "subscribe")
	p := r.request()
	if err == nil {
		err = p.check()
	}
	if err == nil {
		err = r.check(cfg.Version)
	}
	var out *printer
	if err == nil {
		out, err = r.printer()
	}
	if err != nil {
		return usage(err, "")
	}
	m, err := p.message()
	if err != nil {
		return r.hush(err)
	}
	ctx, stop := interruptible()
	defer stop()
	return r.hush(r.ask(ctx, cfg, m, out))
}

// request is the part of pub that req shares.
func (r *reqCmd) request() *pubCmd {
	return &pubCmd{Topic: r.Topic, Message: r.Message, File: r.File, Null: r.Null, Stdin: r.Stdin, QoS: r.QoS, Repeat: 1,
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
	case r.Wait < 0:
		return errors.New("-W must not be negative")
	}
	return nil
}

// ask does the work.
func (r *reqCmd) ask(ctx context.Context, cfg client.Config, m mqtt.Message, out *printer) error {
	answers := make(chan *client.Delivery, 1)
	var correlation []byte // set before anything is subscribed to
	cfg.Handler = func(d *client.Delivery) {
		got, marked := d.Message.Props.Bytes(mqtt.CorrelationData)
		if r.NoStale && d.Message.Retain || marked && !bytes.Equal(got, correlation) {
			return // somebody else's
		}
		select {
		case answers <- d.Keep():
			d.Acknowledge()
		default: // there is one already
		}
	}
	if cfg.Version == mqtt.V5 && r.Response == "" {
		if _, given := cfg.Props.Int(mqtt.RequestResponseInformation); !given {
			cfg.Props = cfg.Props.WithInt(mqtt.RequestResponseInformation, 1)
		}
	}
	var expiry *uint32
	m.Props, expiry = r.Props.ofMessage()
	if data, given := m.Props.Bytes(mqtt.CorrelationData); given {
		correlation = data
	} else if cfg.Version == mqtt.V5 {
		correlation = []byte(rand.Text())
		m.Props = m.Props.WithString(mqtt.CorrelationData, string(correlation))
	}
	c, err := r.dial(ctx, cfg)
	if err != nil {
		return err
	}
	s := sender{ctx: ctx, conn: c, message: m, expiry: expiry}
	d, err := r.exchange(&s, answers)
	bye := r.goodbye(c)
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil:
		return err
	case d == nil && bye != nil:
		return lost(c)
	}
	return out.show(d)
}

// exchange subscribes, sends the request and waits for the answer.
func (r *reqCmd) exchange(s *sender, answers <-chan *client.Delivery) (*client.Delivery, error) {
	name := r.responseTopic(s.conn)
	props, _ := r.Props.properties("subscribe") // was checked
	sub := mqtt.Subscription{Filter: name, QoS: mqtt.QoS(r.QoS)}
	if s.conn.Version() == mqtt.V5 {
		sub.RetainHandling = mqtt.DoNotSendRetained
		s.message.Props = s.message.Props.Without(mqtt.ResponseTopic).WithString(mqtt.ResponseTopic, name)
	}
	if _, err := s.conn.SubscribeWith(s.ctx, props, sub); err != nil {
		return nil, err
	}
	r.debug("waiting for the response on %q", name)
	if err := s.sendRepeated(1, 0); err != nil {
		return nil, err
	}
	var timeout <-chan time.Time
	if r.Wait > 0 {
		timeout = time.After(time.Duration(r.Wait * float64(time.Second)))
	}
	select {
	case d := <-answers:
		return d, nil
	case <-s.conn.Done():
		return nil, lost(s.conn)
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	case <-timeout:
		return nil, hinted(fmt.Errorf("no response in %v seconds", r.Wait), "does anybody answer on "+fmt.Sprintf("%q?", s.message.Topic))
	}
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
