package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/magpiemq/magpie/api"
	"github.com/magpiemq/magpie/cmd/magpie/internal/text"
)

// errLeave ends the console.
var errLeave = errors.New("leave the console")

// console carries out commands. All text that comes from clients is escaped before it is shown.
type console struct {
	client *api.AdminClient
	local  bool      // in the broker's own process: exit stops the broker
	out    io.Writer // whole lines only, by many goroutines
	traces []func()  // stop what trace has started

	sessions func(context.Context) []string // client ids, for completion
}

func newConsole(client *api.AdminClient, local bool) *console {
	return &console{client: client, local: local, out: os.Stdout, sessions: func(ctx context.Context) []string { return sessionNames(ctx, client) }}
}

// input is where commands come from.
type input interface{ ReadLine() (string, error) }

// run carries out commands until one leaves, the input ends, or the broker does. Clients coming and going are shown meanwhile.
func (c *console) run(ctx context.Context, in input) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan struct{})
	stop, err := c.client.Events(ctx, c.showEvent, func() { close(gone) })
	if err != nil {
		return fmt.Errorf("follow the broker's events: %w", err)
	}
	defer stop()
	defer c.stopTraces()
	lines, failed := readLines(ctx, in)
	for {
		select {
		case line := <-lines:
			if err := c.do(ctx, line); errors.Is(err, errLeave) {
				return err
			} else if err != nil {
				c.print("%s", text.Escape(err.Error()))
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read commands: %w", err)
		case <-ctx.Done():
			return nil
		case <-gone:
			if c.local || ctx.Err() != nil {
				return nil
			}
			return errors.New("the broker has ended")
		}
	}
}

// readLines reads on a goroutine of its own, which ends with the input or, between two lines, with ctx.
func readLines(ctx context.Context, in input) (lines chan string, failed chan error) {
	lines, failed = make(chan string), make(chan error, 1)
	go func() {
		for {
			line, err := in.ReadLine()
			if err != nil {
				failed <- err
				return
			}
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
		}
	}()
	return lines, failed
}

// lineReader reads lines as they are.
type lineReader struct{ r *bufio.Reader }

func newLineReader(r io.Reader) *lineReader { return &lineReader{bufio.NewReader(r)} }

func (l *lineReader) read() (string, error) {
	line, err := l.r.ReadString('\n')
	if err != nil && line == "" {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// once carries out one command, without events around it. A trace goes on until ctx is done.
func (c *console) once(ctx context.Context, words []string) error {
	err := c.command(ctx, words)
	if errors.Is(err, errLeave) {
		return nil
	}
	if err == nil && len(c.traces) > 0 {
		<-ctx.Done()
		c.stopTraces()
	}
	return err
}

// do carries out one line.
func (c *console) do(ctx context.Context, line string) error {
	words, err := split(line)
	if err != nil || len(words) == 0 {
		return err
	}
	return c.command(ctx, words)
}

// command is one thing that the console can do.
type command struct {
	name, args, help string
	most             int // arguments at most; args says which must be there
	run              func(c *console, ctx context.Context, args []string) error
}

// need is how many arguments must be there: those not in brackets.
func (cmd *command) need() int {
	words := strings.Fields(cmd.args)
	return len(slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "[") }))
}

// command finds and runs a command.
func (c *console) command(ctx context.Context, words []string) error {
	all := commands()
	i := slices.IndexFunc(all, func(k command) bool { return k.name == words[0] })
	if i < 0 {
		return usagef("unknown command %q%s", words[0], suggestCommand(words[0], all))
	}
	cmd, args := &all[i], words[1:]
	if len(args) < cmd.need() || len(args) > cmd.most {
		return usagef("usage: %s", strings.TrimSpace(cmd.name+" "+cmd.args))
	}
	return cmd.run(c, ctx, args)
}

func suggestCommand(word string, all []command) string {
	var names []string
	for _, k := range all {
		names = append(names, k.name)
	}
	if near := text.DidYouMean(word, names); near != "" {
		return near
	}
	return ": help lists what there is"
}

// split cuts a line into words. A word in double quotes may have blanks in it; escapes are as the console shows them, so that
// what it shows can be typed in again.
func split(line string) (words []string, err error) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " \t") {
		var word string
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, errors.New("a quote is not closed")
			}
			word, line = quoted, line[len(quoted):]
		} else {
			end := strings.IndexAny(line, " \t")
			if end < 0 {
				end = len(line)
			}
			word, line = `"`+strings.ReplaceAll(line[:end], `"`, `\"`)+`"`, line[end:]
		}
		plain, err := strconv.Unquote(word)
		if err != nil {
			return nil, fmt.Errorf("%s is not escaped as it should be: write a backslash as two", word)
		}
		words = append(words, plain)
	}
	return words, nil
}

// word shows a client's word so that it cannot be taken for several, or for none.
func word(s string) string {
	e := text.Escape(s)
	if e == "" || strings.ContainsAny(e, ` "`) {
		return `"` + strings.ReplaceAll(e, `"`, `\"`) + `"`
	}
	return e
}

// print writes one line.
func (c *console) print(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

func (c *console) stopTraces() {
	for _, stop := range c.traces {
		stop()
	}
	c.traces = nil
}
