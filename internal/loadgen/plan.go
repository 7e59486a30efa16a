package loadgen

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
	"github.com/magpiemq/magpie/transport"
)

// Plan is a load. URL is required, and connections of at least one kind.
type Plan struct {
	URL       string               // of the broker, as in transport.Dial; user and password in it are not used
	Dial      transport.DialConfig // Dialer and Proxy make every connection cost goroutines; proxies of the environment are not used
	Version   mqtt.Version         // zero means 5.0
	ClientID  string               // prefix of the client identifiers; empty means bench-RUN-, with a random RUN
	Username  string               // empty sends none
	Password  []byte               // nil sends none
	KeepAlive time.Duration        // whole seconds; zero switches it off
	Props     mqtt.Properties      // of CONNECT

	Idle        int // connections that only are there
	Publishers  int
	Subscribers int

	// Topic is what publishers publish to and Filter what subscribers, and idle connections if it is not empty, subscribe to.
	// {n} stands for the number of the connection, from 0, and {prefix} for Prefix. Where both have {n} each publisher has a
	// subscriber of its own, so there are as many; else every subscriber gets everything, or the members of a $share filter share it.
	Topic  string
	Filter string
	Prefix string // empty means magpie-bench/RUN, so that runs do not disturb each other

	QoS    mqtt.QoS // of messages
	SubQoS mqtt.QoS // of subscriptions
	Size   int      // bytes of a payload, at least MinSize; zero means 64
	Retain bool     // publish retained; in the end the retained messages are removed

	// Rate is messages per second of all publishers together. Zero means as many as windows allow.
	Rate float64
	// Window is how many messages of a publisher, on average over those with the same subscribers, may not have come to the slowest
	// subscriber yet. Zero means no limit, as without subscribers.
	Window int
	// Inflight is how many messages of QoS 1 and 2 a publisher may have unacknowledged, at most 65,535; a broker's Receive Maximum
	// makes it less. Zero means 100.
	Inflight int
	// Batch is how many packets a publisher writes at once. Zero means 32.
	Batch int
	// Coalesce is the shortest time between two reads when there is no rate, so that a broker's small writes are read together and
	// do not wake the generator one by one. Zero means not to wait.
	Coalesce time.Duration

	// ConnectRate is how many connections are begun per second; zero means as soon as possible. Parallel is how many are on their
	// way at a time; zero means 100, or all of them when there is a rate.
	ConnectRate float64
	Parallel    int
	Timeout     time.Duration // how long connecting may make no progress; zero means 15 s

	WarmUp   time.Duration // load before the measured time; not used with Count
	Duration time.Duration // the measured time, or how long idle connections stay; zero means until Count or the end of the context
	Count    int64         // messages to be published; without publishers, to be received; zero means no limit
	Drain    time.Duration // how long after the end nothing may come before the rest is lost; zero means 2 s

	Loops      int  // event loops; zero means 1
	Goroutines bool // two goroutines per connection in any case
	PID        int  // process of the broker on this machine, whose processor time and memory are measured (Linux); zero means none

	// Progress is told about twice a second how it goes, on the goroutine of Run, which it must not block. nil means nobody is.
	Progress func(Progress)
}

// relation is who gets whose messages.
type relation uint8

const (
	nobody relation = iota // no publishers, or no subscribers
	every                  // each subscriber those of each publisher
	own                    // each subscriber those of the publisher with its number
	shared                 // one subscriber of all each message
)

// number and prefix are what patterns may hold.
const (
	numberMark = "{n}"
	prefixMark = "{prefix}"
)

// withDefaults fills in what is zero.
func (p Plan) withDefaults(run uint32) Plan {
	fill(&p.Version, mqtt.V5)
	fill(&p.ClientID, fmt.Sprintf("bench-%08x-", run))
	fill(&p.Prefix, fmt.Sprintf("magpie-bench/%08x", run))
	fill(&p.Size, 64)
	fill(&p.Inflight, 100)
	fill(&p.Batch, 32)
	if p.ConnectRate == 0 {
		fill(&p.Parallel, 100)
	}
	fill(&p.Parallel, p.connections())
	fill(&p.Timeout, 15*time.Second)
	fill(&p.Drain, 2*time.Second)
	fill(&p.Loops, 1)
	if p.Count > 0 {
		p.WarmUp = 0
	}
	p.Topic = strings.ReplaceAll(p.Topic, prefixMark, p.Prefix)
	p.Filter = strings.ReplaceAll(p.Filter, prefixMark, p.Prefix)
	return p
}

func fill[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func (p *Plan) connections() int { return p.Idle + p.Publishers + p.Subscribers }

// relation tells who gets whose messages.
func (p *Plan) relation() relation {
	switch {
	case p.Publishers == 0 || p.Subscribers == 0:
		return nobody
	case strings.HasPrefix(p.Filter, "$share/"):
		return shared
	case strings.Contains(p.Topic, numberMark) && strings.Contains(p.Filter, numberMark):
		return own
	}
	return every
}

// numbered puts the number of a connection into a pattern.
func numbered(pattern string, n int) string {
	return strings.ReplaceAll(pattern, numberMark, strconv.Itoa(n))
}

// check finds what cannot work, before anything is connected. The plan has its defaults.
func (p *Plan) check() error {
	u, err := url.Parse(p.URL)
	if err != nil {
		return errors.New("broker's address is not a URL") // without its text: it may hold a password
	}
	if err := transport.CheckURL(u); err != nil {
		return err
	}
	for _, check := range []func() error{p.checkNumbers, p.checkTimes, p.checkTopics} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// maxPairs is how many pairs of publisher and subscriber there may be; each takes some 40 bytes.
const maxPairs = 1 << 24

func (p *Plan) checkNumbers() error {
	switch {
	case p.Idle < 0 || p.Publishers < 0 || p.Subscribers < 0 || p.connections() == 0:
		return errors.New("numbers of connections must not be negative, and not all zero")
	case p.connections() > 1<<24:
		return fmt.Errorf("%d connections are more than one generator can have", p.connections())
	case p.Publishers > 0 && p.Subscribers > maxPairs/p.Publishers && p.relation() != own:
		return fmt.Errorf("%d publishers for %d subscribers: the order of so many streams cannot be checked", p.Publishers, p.Subscribers)
	case p.Version < mqtt.V31 || p.Version > mqtt.V5:
		return fmt.Errorf("no such version of MQTT: %v", p.Version)
	case p.QoS > 2 || p.SubQoS > 2:
		return errors.New("QoS is 0, 1 or 2")
	case p.Size < MinSize || p.Size > mqtt.MaxPacket-70_000:
		return fmt.Errorf("payloads of %d bytes: there must be at least %d, which hold number and time", p.Size, MinSize)
	case p.Inflight < 1 || p.Inflight > 65_535:
		return fmt.Errorf("%d messages in flight: must be 1 to 65535", p.Inflight)
	case p.Window < 0 || p.Batch < 1 || p.Count < 0:
		return errors.New("window and count must not be negative, a batch holds at least 1")
	case p.Loops < 1 || p.Loops > 1024:
		return fmt.Errorf("%d loops: must be 1 to 1024", p.Loops)
	}
	return nil
}

func (p *Plan) checkTimes() error {
	for _, d := range []time.Duration{p.WarmUp, p.Duration, p.Drain, p.Coalesce, p.Timeout, p.KeepAlive} {
		if d < 0 {
			return errors.New("times must not be negative")
		}
	}
	if !(p.Rate >= 0 && p.ConnectRate >= 0 && p.Rate <= 1e9 && p.ConnectRate <= 1e9) {
		return errors.New("rates must be 0 to 1e9 per second")
	}
	if p.KeepAlive > 65_535*time.Second {
		return errors.New("keep alive is at most 65535 seconds")
	}
	return nil
}

// checkTopics finds publishers whose messages nobody would get.
func (p *Plan) checkTopics() error {
	last := max(p.Idle, p.Publishers, p.Subscribers) - 1 // has the longest number
	if p.Publishers > 0 {
		if err := topic.ValidateName(numbered(p.Topic, last), topic.Limits{}); err != nil {
			return fmt.Errorf("topic %q: %w", p.Topic, err)
		}
	}
	if p.Subscribers > 0 || p.Filter != "" {
		if err := topic.ValidateFilter(numbered(p.Filter, last), topic.Limits{}); err != nil {
			return fmt.Errorf("filter %q: %w", p.Filter, err)
		}
	}
	r := p.relation()
	switch {
	case r == nobody:
		return nil
	case r == own && p.Publishers != p.Subscribers:
		return fmt.Errorf("%d publishers and %d subscribers: where both topic and filter have %s there must be as many of each",
			p.Publishers, p.Subscribers, numberMark)
	case r == own && topic.Match(numbered(p.Filter, 0), numbered(p.Topic, 1)):
		return fmt.Errorf("filter %q has a number but also matches topics with others", p.Filter)
	case r != own && strings.Contains(p.Filter, numberMark):
		return fmt.Errorf("filter %q has a number, which topic %q has not", p.Filter, p.Topic)
	case !topic.Match(unshared(numbered(p.Filter, 0)), numbered(p.Topic, 0)):
		return fmt.Errorf("filter %q does not match topic %q", p.Filter, p.Topic)
	}
	return nil
}

// unshared returns the filter inside a shared one.
func unshared(filter string) string {
	if rest, ok := strings.CutPrefix(filter, "$share/"); ok {
		_, filter, _ = strings.Cut(rest, "/")
	}
	return filter
}

// raw reports whether connections can be plain sockets of our own.
func (p *Plan) raw() bool {
	u, err := url.Parse(p.URL)
	plain := err == nil && (u.Scheme == "mqtt" || u.Scheme == "tcp" || u.Scheme == "unix")
	return hasRaw && plain && !p.Goroutines && p.Dial.Dialer == nil && p.Dial.Proxy == nil
}

// dialConfig is what connections on goroutines are dialled with. They share TLS sessions as little as real clients would.
func (p *Plan) dialConfig() transport.DialConfig {
	d := p.Dial
	d.Direct = d.Proxy == nil
	d.Timeout = p.Timeout
	if d.TLS == nil {
		d.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return d
}
