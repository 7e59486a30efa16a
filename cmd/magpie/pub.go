package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	Repeat   int       `default:"1" placeholder:"N" help:"Publish it so many times (1)."`
	Delay    float64   `name:"repeat-delay" placeholder:"SECONDS" help:"Wait between two of them (0)."`
	Inflight int       `name:"max-inflight" short:"M" placeholder:"N" help:"Messages of QoS 1 and 2 on their way at a time (128)."`

	connFlags
}

// pubHelp is the end of the command's help.
const pubHelp = "Examples:\n\n  magpie pub -t bins/7/level -m 93\n  magpie pub -r -q 1 lamps/kitchen on\n  journalctl -f | magpie pub -t log -l"

// Help is shown by kong below the flags.
func (*pubCmd) Help() string { return pubHelp }

// Run connects, publishes, and leaves when everything is acknowledged.
func (p *pubCmd) Run() error {
	cfg, err := p.config("publish")
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return usage(err, "")
	}
	cfg.MaxInflight = p.Inflight
	m, err := p.message()
	if err != nil {
		return p.hush(err)
	}
	ctx, stop := interruptible()
	defer stop()
	return p.hush(p.publish(ctx, cfg, m))
}

// check finds what is wrong with the flags before anything is sent.
func (p *pubCmd) check() error {
	if err := p.checkTopic(); err != nil {
		return err
	}
	modes := 0
	for _, given := range []bool{p.Message != nil, p.File != "", p.Lines, p.Null, p.Stdin} {
		if given {
			modes++
		}
	}
	switch {
	case modes == 0:
		return errors.New("nothing to publish: give one of -m, -f, -l, -n, -s")
	case modes > 1:
		return errors.New("only one of a message, -m, -f, -l, -n, -s")
	case p.Repeat < 1 || p.Delay < 0:
		return errors.New("--repeat must be at least 1, --repeat-delay not negative")
	case p.Lines && (p.Repeat != 1 || p.Delay != 0):
		return errors.New("--repeat does not go with -l")
	case p.Inflight < 0 || p.Inflight > 32_768:
		return fmt.Errorf("-M %d: must be 1 to 32768", p.Inflight)
	}
	return checkQoS("-q", p.QoS)
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

// message reads what is to be published, unless lines are to follow.
func (p *pubCmd) message() (m mqtt.Message, err error) {
	m = mqtt.Message{Topic: string(p.Topic), QoS: mqtt.QoS(p.QoS), Retain: p.Retain}
	switch {
	case p.Message != nil:
		m.Payload = []byte(*p.Message)
	case p.File != "":
		m.Payload, err = os.ReadFile(string(p.File))
	case p.Stdin:
		m.Payload, err = io.ReadAll(io.LimitReader(os.Stdin, mqtt.MaxPacket+1)) // more cannot be sent
	}
	if err != nil {
		return m, fmt.Errorf("reading the message: %w", err)
	}
	return m, nil
}

// publish does the work.
func (p *pubCmd) publish(ctx context.Context, cfg client.Config, m mqtt.Message) error {
	c, err := p.dial(ctx, cfg)
	if err != nil {
		return err
	}
	s := sender{ctx: ctx, conn: c, message: m}
	s.message.Props, s.expiry = p.Props.ofMessage()
	if p.Lines {
		err = s.sendLines(os.Stdin)
	} else {
		err = s.sendRepeated(p.Repeat, time.Duration(p.Delay*float64(time.Second)))
	}
	bye := p.goodbye(c)
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err == nil && bye != nil:
		return lost(c)
	}
	return err
}

// sender publishes messages that differ in their payload.
type sender struct {
	ctx     context.Context
	conn    *client.Conn
	message mqtt.Message
	expiry  *uint32 // seconds; nil for none
}

// start publishes without waiting for the answer.
func (s *sender) start(payload []byte) (*client.Publication, error) {
	m := s.message
	m.Payload = payload
	if s.expiry != nil {
		m.Expires = time.Now().Add(time.Duration(*s.expiry) * time.Second)
	}
	return s.conn.Start(s.ctx, &m)
}

// settle waits for the answer.
func (s *sender) settle(p *client.Publication) error {
	select {
	case <-p.Done():
		_, err := p.Result()
		return err
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// sendRepeated publishes one message after the other, each when the one before has been acknowledged.
func (s *sender) sendRepeated(times int, delay time.Duration) error {
	for i := range times {
		if i > 0 && delay > 0 {
			select {
			case <-time.After(delay):
			case <-s.conn.Done():
			case <-s.ctx.Done():
			}
		}
		p, err := s.start(s.message.Payload)
		if err == nil {
			err = s.settle(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// waitsAtMost is how many publications of -l are remembered before the first of them is waited for.
const waitsAtMost = 4096

// sendLines publishes each line, without waiting for one acknowledgement after the other. It goes on after a refusal and returns
// the first one.
func (s *sender) sendLines(in io.Reader) (failed error) {
	var waiting []*client.Publication
	note := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	lines := readLinesFrom(s.ctx, in)
	for {
		l, ok := s.nextLine(lines)
		for len(waiting) > 0 && (!ok || len(waiting) > waitsAtMost) {
			note(s.settle(waiting[0]))
			waiting = waiting[1:]
		}
		if !ok {
			note(l.err)
			return failed
		}
		p, err := s.start(l.text)
		if err != nil {
			note(err)
			ok = s.conn.Err() == nil && s.ctx.Err() == nil // a line that is too large does not keep the others back
			if !ok {
				return failed
			}
			continue
		}
		waiting = append(waiting, p)
	}
}

// inputLine is a line of stdin, or the end of it with its error.
type inputLine struct {
	text []byte
	err  error
	end  bool
}

// nextLine waits for a line. ok is false at the end of the input, or when there is nobody to send it to.
func (s *sender) nextLine(lines <-chan inputLine) (l inputLine, ok bool) {
	select {
	case l = <-lines:
		return l, !l.end
	case <-s.conn.Done():
		return inputLine{err: lost(s.conn)}, false
	case <-s.ctx.Done():
		return inputLine{}, false
	}
}

// readLinesFrom sends lines without their ends, and then the end. Its goroutine ends with the input, or with ctx at the next line.
func readLinesFrom(ctx context.Context, in io.Reader) <-chan inputLine {
	lines := make(chan inputLine)
	send := func(l inputLine) bool {
		select {
		case lines <- l:
			return true
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		s := bufio.NewScanner(in)
		s.Buffer(nil, mqtt.MaxPacket)
		s.Split(splitLines)
		for s.Scan() {
			if !send(inputLine{text: bytes.Clone(s.Bytes())}) {
				return
			}
		}
		l := inputLine{end: true}
		if err := s.Err(); err != nil {
			l.err = fmt.Errorf("reading stdin: %w", err)
		}
		send(l)
	}()
	return lines
}

// splitLines splits at \n and leaves everything else alone.
func splitLines(data []byte, atEOF bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
