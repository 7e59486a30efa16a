package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/transport"
)

// drainTime is how long clients have at the end to take what is on its way to them.
const drainTime = 10 * time.Second

// serveCmd runs the broker. Its flags win over the configuration file.
type serveCmd struct {
	Config         string `help:"Configuration file (docs/configuration.md)." placeholder:"FILE" env:"MAGPIE_CONFIG"`
	Data           string `help:"Data directory (magpie-data)." placeholder:"DIR" env:"MAGPIE_DATA"`
	Durability     string `help:"durable, interval=DUR or memory (durable)." placeholder:"MODE" env:"MAGPIE_DURABILITY"`
	MQTT           string `name:"mqtt" help:"Address for MQTT (127.0.0.1:1883), or off." placeholder:"ADDR" env:"MAGPIE_MQTT"`
	MQTTS          string `name:"mqtts" help:"Address for MQTT over TLS." placeholder:"ADDR" env:"MAGPIE_MQTTS"`
	WS             string `name:"ws" help:"Address for MQTT over WebSocket." placeholder:"ADDR" env:"MAGPIE_WS"`
	Unix           string `help:"Path of a Unix socket for MQTT." placeholder:"PATH" env:"MAGPIE_UNIX"`
	HTTP           string `name:"http" help:"Address for HTTP (127.0.0.1:8080), or off." placeholder:"ADDR" env:"MAGPIE_HTTP"`
	IO             string `name:"io" help:"How plain sockets are served: reactor, goroutine or auto (auto)." placeholder:"CORE" env:"MAGPIE_IO" enum:",auto,reactor,goroutine" default:""`
	Cert           string `help:"Certificate for --mqtts, PEM." placeholder:"FILE" env:"MAGPIE_CERT"`
	Key            string `help:"Private key for --mqtts, PEM." placeholder:"FILE" env:"MAGPIE_KEY"`
	AllowAnonymous bool   `help:"Let in clients without credentials, also from other machines." env:"MAGPIE_ALLOW_ANONYMOUS"`
	LogLevel       string `help:"debug, info, warn or error (info; warn with --console)." placeholder:"LEVEL" env:"MAGPIE_LOG_LEVEL" enum:",debug,info,warn,error" default:""`
	LogFormat      string `help:"text or json (text)." placeholder:"FORMAT" env:"MAGPIE_LOG_FORMAT" enum:",text,json" default:""`
	Console        bool   `help:"Show a prompt of the admin console in this terminal." env:"MAGPIE_CONSOLE"`
}

// Help is shown by kong below the usage line.
func (*serveCmd) Help() string {
	return examples(
		"magpie serve", "this machine only: MQTT on port 1883, HTTP on 8080, data in ./magpie-data",
		"magpie serve --console", "the same, with a prompt that shows who comes and goes",
		"magpie serve --config /etc/magpie/magpie.yaml --data /var/lib/magpie", "as a service; docs/configuration.md has all keys",
		"magpie serve --mqtt 0.0.0.0:1883 --http off --allow-anonymous", "open to everybody in the network",
		"magpie serve --mqtt off --mqtts :8883 --cert server.crt --key server.key --config users.yaml", "TLS alone, for the users of a file",
	)
}

// Run serves until a signal comes or the console says so.
func (c *serveCmd) Run() error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	preset := slog.LevelInfo
	if c.Console {
		preset = slog.LevelWarn // the console tells who comes and goes
	}
	logs, log := newLogging(cfg.Log, os.Stderr, preset)
	tell := announcer{out: os.Stdout}
	if logs.json {
		tell.log = log
	}
	s := &server{
		cfg: cfg, load: c.load, logs: logs, log: log, preset: preset, stopping: make(chan struct{}),
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// They stay ours until the process has ended: one that comes late does not make a clean end look like a failure.
	if err := s.start(tell); err != nil {
		return err
	}
	tell.try(s.listeners, !admitsAnybody(cfg, &cfg.Listeners[0]), c.consoleHint(cfg.Data))
	leave := func() {}
	if c.Console {
		leave = s.console()
	}
	s.wait(signals)
	leave() // before draining: ctrl-c is a signal again then
	return s.drain(signals)
}

// consoleHint is the command that opens the console.
func (c *serveCmd) consoleHint(data string) string {
	switch {
	case c.Console:
		return "help"
	case data == config.DefaultData:
		return "magpie console"
	}
	return "magpie console --data " + data
}

// wait returns when the broker has to stop, and reads the configuration again when SIGHUP says so.
func (s *server) wait(signals <-chan os.Signal) {
	for {
		select {
		case <-s.stopping:
			return
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				s.log.Info("stopping", "signal", sig.String())
				return
			}
			_ = s.reload() // which logs what is wrong
		}
	}
}

// drain ends everything. Clients get drainTime, unless a further signal comes.
func (s *server) drain(signals <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case sig := <-signals:
				if sig != syscall.SIGHUP {
					cancel()
				}
			}
		}
	}()
	err := s.shutdown(ctx)
	if s.failure != nil {
		return hinted(s.failure, failureHint) // and what follows from it is no news
	}
	if err != nil {
		return fmt.Errorf("stop: connections were cut: %w", err)
	}
	s.log.Info("stopped")
	return nil
}

// failureHint is what to do when the broker could not go on.
const failureHint = "what was acknowledged is on the disk: see to the disk, then start again"

// load reads the configuration: the file, then the flags over it.
func (c *serveCmd) load() (*config.Config, error) {
	cfg := &config.Config{}
	if c.Config != "" {
		var err error
		if cfg, err = config.Load(c.Config); err != nil {
			return nil, usage(err, "")
		}
	}
	if err := c.apply(cfg); err != nil {
		return nil, err
	}
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, usage(errors.Join(errs...), "")
	}
	return cfg, checkOpen(cfg)
}

// apply puts the flags over the file and fills in the defaults.
func (c *serveCmd) apply(cfg *config.Config) error {
	override(&cfg.Data, c.Data)
	override(&cfg.Durability, c.Durability)
	override(&cfg.HTTP.Address, c.HTTP)
	override(&cfg.IO.Core, c.IO)
	override(&cfg.Log.Level, c.LogLevel)
	override(&cfg.Log.Format, c.LogFormat)
	if cfg.Data == "" {
		cfg.Data = config.DefaultData
	}
	if c.AllowAnonymous {
		cfg.Auth.AllowAnonymous = &c.AllowAnonymous
	}
	if len(cfg.Listeners) == 0 && c.MQTT == "" {
		c.listen(cfg, transport.TCP, config.DefaultMQTT)
	}
	for _, l := range []struct{ network, address string }{
		{transport.TCP, c.MQTT}, {transport.TLS, c.MQTTS}, {transport.WS, c.WS}, {transport.Unix, c.Unix},
	} {
		c.listen(cfg, l.network, l.address)
	}
	if len(cfg.Listeners) == 0 {
		return usage(errors.New("no listener is left"), "give an address to one of --mqtt, --mqtts, --ws, --unix")
	}
	return nil
}

func override(setting *string, flag string) {
	if flag != "" {
		*setting = flag
	}
}

// listen puts the address of a flag into the first listener of its network, or adds one. Off takes all of them away.
func (c *serveCmd) listen(cfg *config.Config, network, address string) {
	if address == "" {
		return
	}
	if address == config.Off {
		var others []config.Listener
		for _, l := range cfg.Listeners {
			if l.Network != network {
				others = append(others, l)
			}
		}
		cfg.Listeners = others
		return
	}
	l := firstOf(cfg, network)
	l.Address, l.Pos = address, config.Pos{}
	if network == transport.TLS && (c.Cert != "" || c.Key != "") {
		if l.TLS == nil {
			l.TLS = &config.TLS{}
		}
		override(&l.TLS.Cert, c.Cert)
		override(&l.TLS.Key, c.Key)
	}
}

// firstOf returns the first listener of a network, which it adds if there is none.
func firstOf(cfg *config.Config, network string) *config.Listener {
	for i := range cfg.Listeners {
		if cfg.Listeners[i].Network == network {
			return &cfg.Listeners[i]
		}
	}
	name := schemes[network] // as the flag is called
	cfg.Listeners = append(cfg.Listeners, config.Listener{Name: name, Network: network})
	return &cfg.Listeners[len(cfg.Listeners)-1]
}
