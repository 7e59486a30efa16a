package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/magpiemq/magpie/internal/loadgen"
	"github.com/magpiemq/magpie/mqtt"
)

// benchCmd puts a load on a broker and tells what became of it.
type benchCmd struct {
	Conn benchConnCmd `cmd:"" help:"Open connections, and see how long that takes and who is refused."`
	Pub  benchPubCmd  `cmd:"" help:"Publish only, as fast as it goes or at a rate."`
	Sub  benchSubCmd  `cmd:"" help:"Receive only, and count."`
	E2E  benchE2ECmd  `cmd:"" name:"e2e" help:"Publish and receive: throughput, latency, and what was lost, came twice or out of order."`
}

// benchFlags are those that all of them share. The letters are those of pub and sub.
type benchFlags struct {
	Host argument `short:"h" default:"localhost" placeholder:"HOST" help:"Broker's host (localhost)."`
	Port int      `short:"p" placeholder:"PORT" help:"Its port (1883, with TLS 8883)."`
	Unix argument `placeholder:"PATH" help:"Connect to a Unix socket instead."`
	URL  argument `name:"url" short:"L" placeholder:"URL" help:"mqtt[s]://[user[:password]@]host[:port], or ws[s]://host[:port][/path]."`

	Version   argument `name:"protocol-version" aliases:"version" short:"V" default:"5" placeholder:"V" help:"5, 3.1.1 or 3.1 (5)."`
	IDPrefix  argument `name:"id-prefix" short:"I" placeholder:"PREFIX" help:"Client ids begin with this (bench- and a random number)."`
	Username  argument `short:"u" placeholder:"USER" help:"User name."`
	Password  argument `name:"pw" aliases:"password" short:"P" placeholder:"PASSWORD" help:"Password; $MAGPIE_PASSWORD keeps it out of the process list."`
	KeepAlive int      `name:"keepalive" short:"k" default:"60" placeholder:"SECONDS" help:"Keep alive; 0 switches it off (60)."`

	TLS      bool     `name:"tls" help:"TLS, trusting the authorities of the system."`
	CAFile   argument `name:"cafile" placeholder:"FILE" help:"TLS, trusting the authorities of this PEM file."`
	Cert     argument `placeholder:"FILE" help:"Client certificate (PEM)."`
	Key      argument `placeholder:"FILE" help:"Its private key (PEM)."`
	Insecure bool     `help:"Do not check that the certificate is the host's."`

	Parallel   int           `placeholder:"N" help:"Connections that are made at a time (100)."`
	Timeout    time.Duration `default:"15s" placeholder:"DUR" help:"How long connecting may make no progress (15s)."`
	Loops      int           `default:"1" placeholder:"N" help:"Event loops of the generator (1)."`
	Goroutines bool          `help:"Two goroutines per connection instead of epoll; TLS and WebSocket always have them."`
	PID        int           `name:"pid" placeholder:"PID" help:"Process of the broker: measure its processor time and memory (Linux)."`
	JSON       bool          `name:"json" help:"Print the result as JSON."`
}

// plan makes the part of a plan that all share. Its errors are of usage.
func (f *benchFlags) plan() (p loadgen.Plan, err error) {
	c := connFlags{
		Host: f.Host, Port: f.Port, Unix: f.Unix, URL: f.URL, Version: f.Version, Username: f.Username, Password: f.Password,
		KeepAlive: f.KeepAlive, TLS: f.TLS, CAFile: f.CAFile, Cert: f.Cert, Key: f.Key, Insecure: f.Insecure,
	}
	cfg, err := c.config()
	switch {
	case err != nil:
		return p, err
	case c.urlTopic != "":
		return p, errors.New("-L: a topic has its own flag here")
	case f.Parallel < 0 || f.Loops < 1 || f.PID < 0 || f.Timeout <= 0:
		return p, errors.New("--parallel, --loops, --pid and --timeout must be positive")
	}
	return loadgen.Plan{
		URL: c.dialURL, Dial: cfg.Transport, Version: cfg.Version, ClientID: string(f.IDPrefix), Username: cfg.Username, Password: cfg.Password,
		KeepAlive: max(cfg.KeepAlive, 0), Parallel: f.Parallel, Timeout: f.Timeout, Loops: f.Loops, Goroutines: f.Goroutines, PID: f.PID,
	}, nil
}

// bench is a run: what it is called, and how.
type benchRun struct {
	Title string       `json:"title"`
	Plan  benchPlan    `json:"plan"`
	plan  loadgen.Plan // the same for the generator
	*loadgen.Report
}

// benchPlan is what a reader of the result wants to know about the plan.
type benchPlan struct {
	URL         string  `json:"url"`
	Version     string  `json:"version"`
	Idle        int     `json:"idle,omitempty"`
	Publishers  int     `json:"publishers"`
	Subscribers int     `json:"subscribers"`
	QoS         int     `json:"qos"`
	Size        int     `json:"size,omitempty"`
	Rate        float64 `json:"rate,omitempty"`
	Window      int     `json:"window,omitempty"`
	Batch       int     `json:"batch,omitempty"`
	Coalesce    string  `json:"coalesce,omitempty"`
}

// run carries out a plan and prints what it has shown.
func (f *benchFlags) run(title string, p loadgen.Plan) error {
	ctx, stop := interruptible()
	defer stop()
	line := &liveLine{}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		line.out = os.Stderr
		p.Progress = line.show
	}
	r, err := loadgen.Run(ctx, p)
	line.end()
	if err != nil {
		return benchError(err)
	}
	b := &benchRun{Title: title, Plan: planOf(&p), plan: p, Report: r}
	if f.JSON {
		if err := json.NewEncoder(os.Stdout).Encode(b); err != nil {
			return fmt.Errorf("printing the result: %w", err)
		}
	} else {
		b.print(os.Stdout)
	}
	return b.verdict(p.URL)
}

func planOf(p *loadgen.Plan) benchPlan {
	b := benchPlan{
		URL: p.URL, Version: p.Version.String(), Idle: p.Idle, Publishers: p.Publishers, Subscribers: p.Subscribers, QoS: int(max(p.QoS, p.SubQoS)),
		Size: p.Size, Rate: p.Rate, Window: p.Window, Batch: p.Batch,
	}
	if p.Coalesce > 0 && p.Rate == 0 {
		b.Coalesce = p.Coalesce.String()
	}
	return b
}

// benchError tells what is wrong with a plan, and what can be done about it. What the flags say is checked before anything is
// connected, so that all but the system's refusals are of usage.
func benchError(err error) error {
	var few *loadgen.DescriptorError
	var plan *loadgen.PlanError
	switch {
	case errors.As(err, &few):
		return hinted(err, fmt.Sprintf("allow more in this shell with: ulimit -n %d", few.Need))
	case errors.As(err, &plan):
		return usage(err, "")
	}
	return err
}

// verdict is the error of a run in which something went wrong that must not. The summary has the numbers already.
func (b *benchRun) verdict(url string) error {
	c := &b.Connections
	switch {
	case c.Failed > 0:
		return hinted(fmt.Errorf("%d of %d connections failed, the first: %w", c.Failed, c.Wanted, c.Err), connectHint(c.Err, url))
	case c.Lost > 0:
		return fmt.Errorf("%s ended too early", count(c.Lost, "connection"))
	case b.LostAcked > 0:
		return fmt.Errorf("%s of acknowledged messages did not come", countWord(b.LostAcked, "delivery", "deliveries"))
	case b.plan.QoS == mqtt.ExactlyOnce && b.plan.SubQoS == mqtt.ExactlyOnce && b.Duplicated > 0:
		return fmt.Errorf("%s of QoS 2 came twice", countWord(b.Duplicated, "message", "messages"))
	}
	return nil
}

func countWord(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(float64(n)) + " " + many
}
