package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/topic"
)

//go:generate sh -c "go run . check config --reference > ../../docs/configuration.md"

// checkCmd tries files without running a broker.
type checkCmd struct {
	Config checkConfigCmd `cmd:"" help:"Check a configuration file and all files it names."`
	ACL    checkACLCmd    `cmd:"" name:"acl" help:"Check an access control list, or ask it: may a client do something?"`
	Cert   checkCertCmd   `cmd:"" help:"Check certificates: names, days left, chain."`
}

// checkConfigCmd checks a configuration.
type checkConfigCmd struct {
	File      string `arg:"" optional:"" help:"Configuration file."`
	Reference bool   `help:"Write the reference of all keys instead, as Markdown."`
}

// Help is shown by kong below the usage line.
func (*checkConfigCmd) Help() string {
	return examples(
		"magpie check config magpie.yaml", "try a configuration, and all files that it names, before the broker does",
		"magpie check config --reference", "all keys, as Markdown",
	)
}

// Run reads everything that serve would read, and opens no listener.
func (c *checkConfigCmd) Run() error {
	switch {
	case c.Reference:
		return config.WriteReference(os.Stdout)
	case c.File == "":
		return usage(errors.New("which file?"), "magpie check config FILE")
	}
	cfg, err := (&serveCmd{Config: c.File}).load()
	if err != nil {
		return err
	}
	rules, faults, err := newRules(cfg)
	if err != nil {
		return usage(err, "")
	}
	defer rules.close()
	for i := range cfg.Listeners {
		faults = append(faults, checkFiles(cfg.Listeners[i].TLS)...)
	}
	faults = append(faults, checkFiles(cfg.HTTP.TLS)...)
	if err := errors.Join(faults...); err != nil {
		return usage(err, "")
	}
	for _, w := range exposed(cfg) {
		fmt.Fprintf(os.Stderr, "magpie: warning: %s\n", w)
	}
	fmt.Printf("%s: ok\n", c.File)
	return nil
}

// checkFiles returns what is wrong with the certificates of a listener.
func checkFiles(t *config.TLS) (faults []error) {
	if t == nil {
		return nil
	}
	pairs := t.Certificates
	if t.Cert != "" {
		pairs = append([]config.Certificate{{Cert: t.Cert, Key: t.Key}}, pairs...)
	}
	for _, p := range pairs {
		if err := checkPair(p.Cert, p.Key); err != nil {
			faults = append(faults, t.Pos.Errorf("%w", err))
		}
	}
	if t.ClientCA != "" {
		if _, err := readCertificates(t.ClientCA); err != nil {
			faults = append(faults, t.Pos.Errorf("client_ca: %w", err))
		}
	}
	return faults
}

// checkACLCmd checks an access control list.
type checkACLCmd struct {
	File   string `arg:"" help:"Access control list."`
	Topic  string `arg:"" optional:"" help:"Topic Name for write and read, Topic Filter for subscribe. Without it the list is only checked."`
	Client string `help:"Client id." placeholder:"ID"`
	User   string `help:"User; without it the client is anonymous." placeholder:"NAME"`
	Action string `help:"write, read or subscribe." enum:"write,read,subscribe" default:"write"`
}

// Help is shown by kong below the usage line.
func (*checkACLCmd) Help() string {
	return examples(
		"magpie check acl rules.acl", "is the list well-formed?",
		"magpie check acl rules.acl --user ann --client bin-7 bins/7/level", "may ann, as bin-7, publish there?",
		"magpie check acl rules.acl --user ann --action subscribe 'bins/#'", "may she subscribe to that?",
	)
}

// Run answers "yes: …" with exit code 0, or "no: …" with 1.
func (c *checkACLCmd) Run() error {
	data, err := os.ReadFile(c.File)
	if err != nil {
		return usage(err, "")
	}
	acl, err := auth.ParseACL(c.File, data)
	if err != nil {
		return usage(err, "")
	}
	if c.Topic == "" {
		fmt.Printf("%s: ok, %s\n", c.File, count(len(acl.Users()), "user"))
		return nil
	}
	action, err := c.action()
	if err != nil {
		return usage(err, "")
	}
	allowed, _, why := acl.Explain(c.Client, c.User, action, c.Topic)
	fmt.Println(why)
	if !allowed {
		return errQuiet
	}
	return nil
}

// action returns what is asked about, if the topic is fit for it.
func (c *checkACLCmd) action() (broker.Action, error) {
	if c.Action == "subscribe" {
		_, filter, shared := topic.ParseShare(c.Topic)
		if err := topic.ValidateFilter(c.Topic, topic.Limits{}); err != nil {
			return 0, fmt.Errorf("%q: %w", c.Topic, err)
		}
		if shared {
			c.Topic = filter // which is what is decided about
		}
		return broker.Subscribe, nil
	}
	if err := topic.ValidateName(c.Topic, topic.Limits{}); err != nil {
		return 0, fmt.Errorf("%q: %w", c.Topic, err)
	}
	if c.Action == "read" {
		return broker.Read, nil
	}
	return broker.Write, nil
}
