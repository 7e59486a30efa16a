package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/magpiemq/magpie/cmd/magpie/internal/text"
	"github.com/magpiemq/magpie/internal/loadgen"
	"github.com/magpiemq/magpie/mqtt"
)

// benchConnCmd opens connections.
type benchConnCmd struct {
	Conns     int           `short:"n" default:"1000" placeholder:"N" help:"Connections (1000)."`
	Rate      float64       `placeholder:"N" help:"Connections begun per second (as many as come about)."`
	Subscribe argument      `short:"t" placeholder:"FILTER" help:"Each subscribes to this; {n} is its number."`
	Hold      time.Duration `placeholder:"DUR" help:"Keep them open so long, and see who is disconnected."`
	benchFlags
}

// Help is shown by kong below the flags.
func (*benchConnCmd) Help() string {
	return examples(
		"magpie bench conn -n 10000 --hold 1m --pid $(pidof mosquitto)", "ten thousand at once, and what each costs the broker",
		"magpie bench conn -n 5000 --rate 500 --subscribe 'bins/{n}/#'", "500 a second, each with a subscription")
}

// Run opens the connections.
func (b *benchConnCmd) Run() error {
	p, err := b.plan()
	if err != nil {
		return usage(err, "")
	}
	p.Idle, p.ConnectRate, p.Filter, p.Duration = b.Conns, b.Rate, string(b.Subscribe), b.Hold
	title := fmt.Sprintf("%s to %s, MQTT %v", countWord(uint64(max(0, b.Conns)), "connection", "connections"), p.URL, p.Version)
	return b.run(title, p)
}

// loadFlags say what is published and how fast.
type loadFlags struct {
	QoS      int           `name:"qos" short:"q" placeholder:"QOS" help:"Quality of service: 0, 1 or 2 (0)."`
	Size     int           `short:"s" default:"64" placeholder:"BYTES" help:"Payload, at least 24 (64)."`
	Rate     *float64      `placeholder:"N" help:"Messages per second of all publishers together; their latency counts from the time they are due."`
	Window   *int          `placeholder:"N" help:"Without a rate: messages of a publisher that are under way, not acknowledged (QoS 1, 2) or not received yet."`
	Batch    int           `default:"32" placeholder:"N" help:"Packets a publisher writes at once (32)."`
	Coalesce time.Duration `default:"100us" placeholder:"DUR" help:"Without a rate: shortest time between two looks at the sockets; 0 looks at once (100us)."`
	Retain   bool          `short:"r" help:"Publish retained; removed in the end."`
	WarmUp   time.Duration `name:"warmup" default:"1s" placeholder:"DUR" help:"Load before the measured time (1s); none with --count."`
	Duration time.Duration `default:"5s" placeholder:"DUR" help:"The measured time (5s); no limit with --count, unless given."`
	Count    int64         `placeholder:"N" help:"Leave after so many messages."`
	Prefix   argument      `placeholder:"TOPIC" help:"What {prefix} stands for (magpie-bench/ and a random number)."`
}

// defaultDuration is that of the flag.
const defaultDuration = 5 * time.Second

// into puts the flags into a plan.
func (f *loadFlags) into(p *loadgen.Plan) error {
	if err := checkQoS("-q", f.QoS); err != nil {
		return err
	}
	p.QoS, p.Size, p.Batch, p.Coalesce, p.Retain = mqtt.QoS(f.QoS), f.Size, f.Batch, f.Coalesce, f.Retain
	p.WarmUp, p.Duration, p.Count, p.Prefix = f.WarmUp, f.Duration, f.Count, string(f.Prefix)
	if f.Count > 0 && f.Duration == defaultDuration {
		p.Duration = 0
	}
	if f.Rate != nil {
		p.Rate = *f.Rate
		if *f.Rate <= 0 {
			return errors.New("--rate must be positive")
		}
		p.Window = 0
	}
	if f.Window != nil {
		if *f.Window < 1 || *f.Window > 65_535 {
			return fmt.Errorf("--window %d: must be 1 to 65535", *f.Window)
		}
		p.Window, p.Inflight = *f.Window, *f.Window
	}
	switch {
	case f.Size == 0 || f.Batch < 1 || f.Count < 0:
		return errors.New("--size, --batch and --count must be positive")
	case f.Duration <= 0 && f.Count == 0:
		return errors.New("--duration must be positive")
	}
	return nil
}

// speed says how fast, for the title.
func speed(p *loadgen.Plan) string {
	switch {
	case p.Rate > 0:
		return fmt.Sprintf("%s messages/s", thousands(p.Rate))
	case p.Window > 0:
		return fmt.Sprintf("window %d", p.Window)
	}
	return "as fast as it goes"
}

// benchPubCmd publishes only.
type benchPubCmd struct {
	Pubs  int      `short:"n" default:"1" placeholder:"N" help:"Publishers (1)."`
	Topic argument `short:"t" default:"{prefix}/{n}" placeholder:"TOPIC" help:"Topic; {n} is the publisher's number ({prefix}/{n})."`
	loadFlags
	benchFlags
}

// Help is shown by kong below the flags.
func (*benchPubCmd) Help() string {
	return examples(
		"magpie bench pub -n 100 -q 1 --rate 20000 -t 'bins/{n}/level'", "20,000 messages a second from a hundred clients",
		"magpie bench pub --count 1000000", "a million, as fast as the broker takes them")
}

// Run publishes.
func (b *benchPubCmd) Run() error {
	p, err := b.plan()
	if err == nil {
		err = b.into(&p)
	}
	if err != nil {
		return usage(err, "")
	}
	p.Publishers, p.Topic = b.Pubs, string(b.Topic)
	title := fmt.Sprintf("%s, QoS %d, %d bytes, MQTT %v, %s", countWord(uint64(max(0, b.Pubs)), "publisher", "publishers"), b.QoS, b.Size, p.Version, speed(&p))
	return b.run(title, p)
}

// benchSubCmd receives only.
type benchSubCmd struct {
	Subs     int           `short:"n" default:"1" placeholder:"N" help:"Subscribers (1)."`
	Filter   argument      `short:"t" default:"magpie-bench/#" placeholder:"FILTER" help:"Topic filter; {n} is the subscriber's number (magpie-bench/#)."`
	QoS      int           `name:"qos" short:"q" placeholder:"QOS" help:"Quality of service: 0, 1 or 2 (0)."`
	Duration time.Duration `placeholder:"DUR" help:"Leave after this time."`
	Count    int64         `placeholder:"N" help:"Leave after so many messages."`
	benchFlags
}

// Help is shown by kong below the flags.
func (*benchSubCmd) Help() string {
	return examples("magpie bench sub -n 10 -t '$share/g/bins/#' --duration 1m", "ten workers of one group, for a minute") +
		"\nOf messages that magpie bench pub has published on the same machine it tells the latency, and which are lost, came twice or out of order."
}

// Run receives.
func (b *benchSubCmd) Run() error {
	p, err := b.plan()
	if err == nil {
		err = checkQoS("-q", b.QoS)
	}
	if err != nil {
		return usage(err, "")
	}
	p.Subscribers, p.Filter, p.SubQoS, p.Duration, p.Count = b.Subs, string(b.Filter), mqtt.QoS(b.QoS), b.Duration, b.Count
	title := fmt.Sprintf("%s of %s, QoS %d, MQTT %v", countWord(uint64(max(0, b.Subs)), "subscriber", "subscribers"), text.Escape(p.Filter), b.QoS, p.Version)
	return b.run(title, p)
}

// benchE2ECmd publishes and receives.
type benchE2ECmd struct {
	Scenario string   `enum:"fan-in,fan-out,pairs,spread,shared" default:"fan-in" placeholder:"NAME" help:"fan-in 100→1, fan-out 1→500, pairs 100 of 1→1, spread 2000→2 at 20000/s, shared 10→a group of 10 (fan-in). Flags override its numbers."`
	Pubs     *int     `placeholder:"N" help:"Publishers."`
	Subs     *int     `placeholder:"N" help:"Subscribers."`
	Topic    argument `placeholder:"TOPIC" help:"Topic; {n} is the publisher's number."`
	Filter   argument `placeholder:"FILTER" help:"Topic filter; {n} is the subscriber's number, $share/GROUP/… shares."`
	SubQoS   *int     `name:"sub-qos" placeholder:"QOS" help:"Quality of service of the subscriptions (that of the messages)."`
	loadFlags
	benchFlags
}

// Help is shown by kong below the flags.
func (*benchE2ECmd) Help() string {
	return examples(
		"magpie bench e2e --scenario pairs -q 1 --pid $(pidof mosquitto)", "a hundred pairs flat out, and what a message costs the broker",
		"magpie bench e2e --scenario fan-out --subs 50 --rate 1000 --json", "one publisher and fifty subscribers, for a program") +
		"\nEach run has topics of its own. The exit code is 1 when connections fail or an acknowledged message does not come."
}

// benchScenario is what a name stands for.
type benchScenario struct {
	pubs, subs    int
	window        int // per publisher
	rate          float64
	topic, filter string
}

var benchScenarios = map[string]benchScenario{
	"fan-in":  {100, 1, 20, 0, "{prefix}/{n}", "{prefix}/#"},
	"fan-out": {1, 500, 100, 0, "{prefix}/all", "{prefix}/all"},
	"pairs":   {100, 100, 100, 0, "{prefix}/{n}", "{prefix}/{n}"},
	"spread":  {2000, 2, 0, 20_000, "{prefix}/{n}", "{prefix}/#"},
	"shared":  {10, 10, 200, 0, "{prefix}/{n}", "$share/g/{prefix}/#"},
}

// Run publishes and receives.
func (b *benchE2ECmd) Run() error {
	p, err := b.plan()
	if err == nil {
		err = b.shape(&p)
	}
	if err == nil {
		err = b.into(&p)
	}
	if err != nil {
		return usage(err, "")
	}
	p.SubQoS = p.QoS
	if b.SubQoS != nil {
		if err := checkQoS("--sub-qos", *b.SubQoS); err != nil {
			return usage(err, "")
		}
		p.SubQoS = mqtt.QoS(*b.SubQoS)
	}
	title := fmt.Sprintf("%s: %s to %s, QoS %d, %d bytes, MQTT %v, %s", b.Scenario, countWord(uint64(max(0, p.Publishers)), "publisher", "publishers"),
		countWord(uint64(max(0, p.Subscribers)), "subscriber", "subscribers"), b.QoS, b.Size, p.Version, speed(&p))
	return b.run(title, p)
}

// shape takes the scenario's numbers where no flag has others. A window replaces its rate.
func (b *benchE2ECmd) shape(p *loadgen.Plan) error {
	s := benchScenarios[b.Scenario]
	p.Publishers, p.Subscribers, p.Window, p.Rate, p.Topic, p.Filter = s.pubs, s.subs, s.window, s.rate, s.topic, s.filter
	if b.Pubs != nil {
		p.Publishers = *b.Pubs
	}
	if b.Scenario == "pairs" && b.Pubs != nil {
		p.Subscribers = p.Publishers
	}
	if b.Subs != nil {
		p.Subscribers = *b.Subs
	}
	if b.Scenario == "pairs" && b.Pubs == nil {
		p.Publishers = p.Subscribers
	}
	if p.Publishers < 1 || p.Subscribers < 1 {
		return errors.New("--pubs and --subs must be at least 1")
	}
	if b.Window != nil {
		p.Rate = 0
	}
	if b.Topic != "" {
		p.Topic = string(b.Topic)
	}
	if b.Filter != "" {
		p.Filter = string(b.Filter)
	}
	if strings.Contains(p.Topic, "{n}") && strings.Contains(p.Filter, "{n}") && p.Publishers != p.Subscribers {
		return fmt.Errorf("%d publishers and %d subscribers are not pairs", p.Publishers, p.Subscribers)
	}
	return nil
}
