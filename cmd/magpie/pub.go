package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// pubCmd publishes messages.
type pubCmd struct {
	Name    argument  `arg:"" optional:"" name:"topic" help:"Topic, if not given by -t."`
	Payload *argument `arg:"" optional:"" name:"message" help:"Message, if not given by -m, -f, -l, -n or -s."`

	Topic    argument  `short:"t" placeholder:"TOPIC" help:"Topic to publish to."`
	Message  *argument `short:"m" placeholder:"TEXT" help:"Publish this."`
	File     argument  `short:"f" placeholder:"FILE" help:"Publish the content of a file."`
	Lines    bool      `name:"stdin-line" short:"l" help:"Publish each line of stdin."`
	Null     bool      `name:"null-message" short:"n" help:"Publish an empty message."`
	Stdin    bool      `name:"stdin-file" short:"s" help:"Publish all of stdin as one message."`
	QoS      int       `name:"qos" short:"q" placeholder:"QOS" help:"Quality of service: 0, 1 or 2 (0)."`
	Retain   bool      `short:"r" help:"The broker keeps the last one for those who subscribe later."`
	Repeat   *int      `placeholder:"N" help:"Publish it so many times (1)."`
	Count    *int      `short:"C" placeholder:"N" help:"With -l: leave after so many lines. Otherwise as --repeat."`
	Delay    float64   `name:"repeat-delay" placeholder:"SECONDS" help:"Wait between an answer and the next message (0)."`
	Rate     float64   `placeholder:"N" help:"Publish at most so many messages per second, without waiting for the answers in between."`
	Inflight int       `name:"max-inflight" short:"M" placeholder:"N" help:"Messages of QoS 1 and 2 on their way at a time (128)."`
	Wait     float64   `name:"timeout" short:"W" placeholder:"SECONDS" help:"Fail when not everything is acknowledged after so many seconds; with --queue they begin when everything is in the folder."`
	Queue    argument  `placeholder:"DIR" help:"Keep messages of QoS 1 and 2 in this folder until they are acknowledged: the next run with it sends what is left. Needs -i."`

	encodingFlags
	reconnectFlag
	connFlags
}

// Help is shown by kong below the usage line.
func (*pubCmd) Help() string {
	return examples(
		"magpie pub bins/7/level 93", "topic and message as two arguments",
		"magpie pub -t bins/7/level -m 93 -q 1 -r", "the same with flags, as mosquitto_pub takes them; acknowledged, retained",
		"journalctl -f | magpie pub -t log -l -q 1", "each line a message; when the broker goes away, they wait",
		"magpie pub -t load -m x --count 1000 --rate 50", "fifty a second",
		"magpie pub --hex -t plc/1 -m '01 03 00 6b'", "bytes that are no text",
		"magpie pub -i bin7 --queue spool -q 1 -W 10 bins/7/level 93", "if it is not delivered in 10 seconds, it stays in the folder spool",
		"magpie pub -i bin7 --queue spool", "send what is in that folder",
	)
}

// Run connects, publishes, and leaves when everything is acknowledged.
func (p *pubCmd) Run() error {
	p.Keep = p.Keep || p.Queue != "" && p.ID != ""
	cfg, err := p.config("publish")
	if err == nil {
		err = p.check()
	}
	var m mqtt.Message
	if err == nil {
		m, err = p.given()
	}
	if err != nil {
		return usage(err, "")
	}
	cfg.MaxInflight = p.Inflight
	if err := p.read(&m); err != nil {
		return p.hush(err)
	}
	ctx, stop := interruptible()
	defer stop()
	if p.Queue == "" { // else the time begins when everything is in the folder
		var cancel context.CancelFunc
		ctx, cancel = withLimit(ctx, p.Wait)
		defer cancel()
	}
	return p.hush(p.publish(ctx, cfg, m))
}

var errNothing = errors.New("nothing to publish: give one of -m, -f, -l, -n, -s")

// check finds what is wrong with the flags before anything is sent.
func (p *pubCmd) check() error {
	modes := howMany(p.Message != nil || p.Payload != nil || p.Topic != "" && p.Name != "", p.File != "", p.Lines, p.Null, p.Stdin)
	if p.Queue != "" && modes == 0 && p.Topic == "" && p.Name == "" && p.urlTopic == "" {
		return p.checkQueue()
	}
	if err := p.checkTopic(); err != nil {
		return err
	}
	switch {
	case modes == 0:
		return errNothing
	case modes > 1:
		return errors.New("only one of a message, -m, -f, -l, -n, -s")
	case p.Inflight < 0 || p.Inflight > 32_768:
		return fmt.Errorf("-M %d: must be 1 to 32768", p.Inflight)
	case p.Wait < 0:
		return errors.New("-W must not be negative")
	case p.goesOn() && len(p.Props.of("disconnect")) > 0:
		return errors.New("-D disconnect needs --no-reconnect")
	}
	if err := p.checkTimes(); err != nil {
		return err
	}
	if p.Queue != "" {
		if err := p.checkQueue(); err != nil {
			return err
		}
	}
	return checkQoS("-q", p.QoS)
}

// checkTimes judges how often to publish.
func (p *pubCmd) checkTimes() error {
	repeated := p.Repeat != nil || p.Count != nil
	switch {
	case p.Repeat != nil && p.Count != nil:
		return errors.New("--count and --repeat mean the same: give one")
	case p.times() < 1:
		return errors.New("--repeat and --count must be at least 1")
	case p.Delay < 0 || p.Rate < 0:
		return errors.New("--repeat-delay and --rate must not be negative")
	case p.Lines && (p.Repeat != nil || p.Delay != 0):
		return errors.New("--repeat and --repeat-delay do not go with -l, --count and --rate do")
	case p.Rate > 0 && !p.Lines && !repeated:
		return errors.New("--rate needs something to repeat: -l, --repeat or --count")
	case p.Rate > 0 && p.Delay > 0:
		return errors.New("--rate and --repeat-delay exclude each other")
	}
	return nil
}

// checkQueue judges the use of --queue. Who sends what an earlier run has left must be the same client, with the same session.
func (p *pubCmd) checkQueue() error {
	switch {
	case p.ID == "":
		return errors.New("--queue needs a client id (-i): the broker knows by it what it has already")
	case p.QoS == 0 && p.Topic != "":
		return errors.New("--queue needs -q 1 or -q 2: nothing acknowledges QoS 0")
	case !p.connectsAgain(true):
		return errors.New("--queue and --no-reconnect exclude each other")
	}
	return nil
}

// times is how many messages there are, or lines at most; with -l and no limit it is the largest number.
func (p *pubCmd) times() int {
	switch {
	case p.Repeat != nil:
		return *p.Repeat
	case p.Count != nil:
		return *p.Count
	case p.Lines:
		return math.MaxInt
	}
	return 1
}

// checkTopic settles which of the ways to name topic and message was taken. With -t, the first argument is the message.
func (p *pubCmd) checkTopic() error {
	switch {
	case p.Topic != "" && p.Name != "" && p.Payload == nil:
		p.Payload = &p.Name
	case p.Topic != "" && p.Name != "":
		return errors.New("the topic is given twice")
	case p.Topic == "" && p.Name != "":
		p.Topic = p.Name
	case p.Topic == "":
		p.Topic = argument(p.urlTopic)
	}
	if p.Payload != nil {
		if p.Message != nil {
			return errors.New("the message is given twice")
		}
		p.Message = p.Payload
	}
	if p.Topic == "" {
		return errors.New("no topic: give -t TOPIC")
	}
	return topic.ValidateName(string(p.Topic), topic.Limits{})
}

// given is the message as the command line has it. Its errors are of usage.
func (p *pubCmd) given() (m mqtt.Message, err error) {
	m = mqtt.Message{Topic: string(p.Topic), QoS: mqtt.QoS(p.QoS), Retain: p.Retain}
	if p.Message != nil {
		m.Payload, err = p.decode([]byte(*p.Message))
	} else {
		_, err = p.decode(nil)
	}
	return m, err
}

// read reads the payload from where the command line says it is, unless lines are to follow.
func (p *pubCmd) read(m *mqtt.Message) (err error) {
	var data []byte
	switch {
	case p.File != "":
		data, err = os.ReadFile(string(p.File))
	case p.Stdin:
		data, err = io.ReadAll(io.LimitReader(os.Stdin, 2*mqtt.MaxPacket+1)) // more cannot be sent, not even as hexadecimal
	default:
		return nil
	}
	if err == nil {
		m.Payload, err = p.decode(data)
	}
	if err != nil {
		return fmt.Errorf("reading the message: %w", err)
	}
	return nil
}

// publish does the work.
func (p *pubCmd) publish(ctx context.Context, cfg client.Config, m mqtt.Message) error {
	var expiry *uint32
	m.Props, expiry = p.Props.ofMessage()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out, err := p.open(ctx, cfg, stop)
	if err != nil {
		return err
	}
	s := sender{ctx: ctx, out: out, message: m, expiry: expiry, pace: newPace(p.Rate), one: !p.Lines && p.Rate == 0}
	err = s.send(p.source(&s))
	return out.close(ctx, err)
}

// source gives the payloads that the command line asks for.
func (p *pubCmd) source(s *sender) source {
	switch {
	case p.Topic == "": // only what an earlier run has left
		return func() ([]byte, bool, error) { return nil, false, nil }
	case p.Lines:
		return s.lines(os.Stdin, p.times(), p.decode)
	}
	return s.repeated(p.times(), time.Duration(p.Delay*float64(time.Second)))
}
