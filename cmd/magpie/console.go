package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/magpiemq/magpie/api"
	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
)

// consoleCmd attaches to a running broker by the socket in its data directory.
type consoleCmd struct {
	Data    string   `help:"Data directory of the broker (magpie-data)." placeholder:"DIR" env:"MAGPIE_DATA"`
	Command []string `arg:"" optional:"" help:"One command to carry out instead of a prompt: help lists them."`
}

// Help is shown by kong below the usage line.
func (*consoleCmd) Help() string {
	return examples(
		"magpie console", "a prompt for the broker whose data directory is ./magpie-data; help lists what it can do",
		"magpie console --data /var/lib/magpie clients", "one command: who is connected",
		"magpie console kick bin-7", "disconnect a client",
		"magpie console trace topic 'bins/#'", "show messages until Ctrl-C",
	)
}

// Run shows a prompt until exit, the end of the input, or the end of the broker; or carries out one command.
func (c *consoleCmd) Run() error {
	if c.Data == "" {
		c.Data = config.DefaultData
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	client := api.NewAdminClient(filepath.Join(c.Data, adminSocket))
	defer client.Close()
	if _, err := client.Stats(ctx); err != nil {
		return hinted(fmt.Errorf("no broker answers in the data directory %s: %w", c.Data, err),
			"start one with: magpie serve; or name its directory with --data DIR")
	}
	con := newConsole(client, false)
	if len(c.Command) > 0 {
		return con.once(ctx, c.Command)
	}
	input, restore, err := openPrompt(os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	defer restore()
	con.out = input
	input.completeWith(con)
	if err := con.run(ctx, input); !errors.Is(err, errLeave) {
		return err
	}
	return nil
}

// console shows the prompt of server's own broker in this terminal. leave waits for the prompt's end and gives the terminal back.
func (s *server) console() (leave func()) {
	input, restore, err := openPrompt(os.Stdin, os.Stdout)
	if err != nil {
		s.log.Error("no console", "reason", err)
		return func() {}
	}
	before := s.logs.redirect(logOutput(input))
	client := api.NewAdminClient(filepath.Join(s.cfg.Data, adminSocket))
	con := newConsole(client, true)
	con.out = input
	input.completeWith(con)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with the input, which may be later than everything else
		err := con.run(ctx, input)
		if input.isTerminal() || errors.Is(err, errLeave) {
			s.stop() // piped commands may end and the broker go on
		}
	}()
	return func() {
		cancel()
		client.Close()
		s.logs.redirect(before)
		restore()
	}
}

// logOutput is where log lines go while there is a prompt: above it on a terminal, to standard error otherwise.
func logOutput(p *prompt) io.Writer {
	if p.isTerminal() {
		return p
	}
	return os.Stderr
}

// prompt reads lines: with editing and history on a terminal, as they are otherwise. Written lines appear above the prompt.
type prompt struct {
	terminal *term.Terminal // nil when there is none
	lines    *lineReader

	mu  sync.Mutex // guards out
	out io.Writer
}

// openPrompt makes a prompt of standard input and output. restore gives the terminal back as it was.
func openPrompt(in, out *os.File) (p *prompt, restore func(), err error) {
	fd := int(in.Fd())
	if !term.IsTerminal(fd) || !term.IsTerminal(int(out.Fd())) {
		return &prompt{lines: newLineReader(in), out: out}, func() {}, nil
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, nil, fmt.Errorf("set up the terminal: %w", err)
	}
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, out}, "> ")
	if w, h, err := term.GetSize(fd); err == nil && w > 0 {
		_ = t.SetSize(w, h)
	}
	return &prompt{terminal: t, out: t}, sync.OnceFunc(func() { _ = term.Restore(fd, state) }), nil
}

func (p *prompt) isTerminal() bool { return p.terminal != nil }

// completeWith lets the tabulator complete what a console understands. It is called before the first ReadLine.
func (p *prompt) completeWith(c *console) {
	if p.terminal != nil {
		p.terminal.AutoCompleteCallback = c.complete
	}
}

// ReadLine returns the next line without its end. At the end of the input, and at ctrl-c and ctrl-d, the error is io.EOF.
func (p *prompt) ReadLine() (string, error) {
	if p.terminal != nil {
		return p.terminal.ReadLine()
	}
	return p.lines.read()
}

// Write writes whole lines.
func (p *prompt) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}
