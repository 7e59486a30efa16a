// Command magpie is an MQTT broker and its tools in one binary. This file wires: the commands are one file each, what they
// do is in the packages.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// cli is the command line: a field per command.
type cli struct {
	Help helpFlag `help:"Show this help, or that of a command."`

	Serve      serveCmd      `cmd:"" help:"Run the broker."`
	Pub        pubCmd        `cmd:"" help:"Publish messages."`
	Sub        subCmd        `cmd:"" help:"Subscribe and print messages."`
	Req        reqCmd        `cmd:"" help:"Send a request and print the response (MQTT 5.0)."`
	Bench      benchCmd      `cmd:"" help:"Put a load on a broker, and see what it bears."`
	Console    consoleCmd    `cmd:"" help:"Look into a running broker."`
	Passwd     passwdCmd     `cmd:"" help:"Set or delete a user's password in a password file."`
	Check      checkCmd      `cmd:"" help:"Check a configuration, an access control list or certificates."`
	Store      storeCmd      `cmd:"" help:"Check, print or salvage the journal of a broker that is not running."`
	Backup     backupCmd     `cmd:"" help:"Back up a broker, running or not, into one file."`
	Restore    restoreCmd    `cmd:"" help:"Make a data directory of a backup."`
	Import     importCmd     `cmd:"" help:"Make a data directory of what another broker has kept."`
	Completion completionCmd `cmd:"" help:"Print a script that completes command lines, for bash, zsh or fish."`
	Version    versionCmd    `cmd:"" help:"Show the version."`
}

// helpFlag is --help without a letter: -h is the host of pub, sub, req and bench.
type helpFlag bool

// IgnoreDefault keeps kong from treating the flag as set by default.
func (helpFlag) IgnoreDefault() {}

// BeforeReset prints the help and exits, before missing arguments are complained about.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	ctx.Kong.Exit(0)
	return nil
}

// examples makes the part of a help text that shows how a command is used: command lines, each followed by what it does.
func examples(lines ...string) string {
	var b strings.Builder
	b.WriteString("Examples:\n\n")
	for i := 0; i < len(lines); i += 2 {
		fmt.Fprintf(&b, "  # %s\n  %s\n", lines[i+1], lines[i])
	}
	return b.String()
}

func main() { os.Exit(run(os.Args[1:])) }

// newParser makes the parser of the command line.
func newParser(c *cli) (*kong.Kong, error) {
	return kong.New(c, kong.Name("magpie"), kong.NoDefaultHelp(),
		kong.Vars{"kinds": strings.Join(kindNames, ", "), "log_kinds": strings.Join(logNames, ", ")},
		kong.Description("An MQTT broker (3.1, 3.1.1, 5.0) in one binary. Start it with: magpie serve"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 120}))
}

// run carries out a command line and returns the exit code: 0 ok, 1 failed, 2 usage.
func run(args []string) int {
	parser, err := newParser(&cli{})
	if err != nil {
		panic(fmt.Sprintf("command line definition: %v", err))
	}
	if len(args) > 0 && args[0] == completeWord {
		printSuggestions(os.Stdout, parser.Model.Node, args[1:])
		return 0
	}
	ctx, err := parser.Parse(shortHelp(args))
	if err != nil {
		return fail(usage(err, usageHint(ctx, err)))
	}
	return fail(ctx.Run())
}

// shortHelp lets -h mean --help for the commands where it is not the host.
func shortHelp(args []string) []string {
	if len(args) == 0 {
		return []string{"--help"}
	}
	for _, client := range []string{"pub", "sub", "req", "bench"} {
		if args[0] == client {
			return args
		}
	}
	for i, a := range args {
		if a == "--" {
			break
		}
		if a == "-h" {
			args = append(append(args[:i:i], "--help"), args[i+1:]...)
		}
	}
	return args
}
