package main

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/magpiemq/magpie/client"
)

// printFlags say how messages are printed; sub and req share them.
type printFlags struct {
	Verbose bool     `short:"v" group:"Output" help:"Print the topic before the message."`
	Format  argument `short:"F" group:"Output" placeholder:"FORMAT" help:"Print by a format: %t topic, %p payload, %q QoS, %r retain, %j JSON and more, as mosquitto_sub."`
	JSON    bool     `name:"json" group:"Output" help:"Print a JSON object per message."`
	Pretty  bool     `group:"Output" help:"Indent what is JSON: the payload, or the object of --json, %j and %J."`
	NoEOL   bool     `name:"no-eol" short:"N" group:"Output" help:"No newline after each message."`
}

// printer makes the printer for stdout.
func (f *printFlags) printer(e encodingFlags) (*printer, error) {
	p := &printer{
		out: os.Stdout, eol: !f.NoEOL, careful: term.IsTerminal(int(os.Stdout.Fd())), pretty: f.Pretty, encode: e.encoder(),
	}
	switch {
	case howMany(f.Verbose, f.Format != "", f.JSON) > 1:
		return nil, errors.New("only one of -v, -F, --json")
	case howMany(f.Format != "", f.JSON, f.Pretty, e.Hex, e.Base64) > 1 && p.encode != nil:
		return nil, errors.New("--hex and --base64 exclude each other, -F (which has %x), --json and --pretty")
	}
	var err error
	switch {
	case f.Verbose:
		p.print = printVerbose
	case f.JSON:
		p.print = printJSON
	case f.Format != "":
		p.print, err = parseFormat(string(f.Format))
	default:
		p.print = printPayload
	}
	return p, err
}

// howMany returns how many are true.
func howMany(given ...bool) (n int) {
	for _, on := range given {
		if on {
			n++
		}
	}
	return n
}

// printer writes messages to a stream, each with one write.
type printer struct {
	out     io.Writer
	eol     bool // a newline after each
	careful bool // out is a terminal: what comes from outside must not command it
	pretty  bool // JSON is indented
	encode  func([]byte) string
	print   func(*printing)
	buf     []byte
}

// show prints one message.
func (p *printer) show(d *client.Delivery) error {
	pr := printing{Delivery: d, b: p.buf[:0], careful: p.careful, pretty: p.pretty, encode: p.encode, now: time.Now()}
	p.print(&pr)
	if p.eol {
		pr.b = append(pr.b, '\n')
	}
	if p.buf = pr.b; cap(p.buf) > 1<<20 {
		p.buf = nil
	}
	if pr.skip != "" {
		warn(errors.New(pr.skip))
		return nil
	}
	_, err := p.out.Write(pr.b)
	return err
}

// encodingFlags are for payloads that are no text. For pub they say how a message is given, for sub how it is printed, for req both.
type encodingFlags struct {
	Hex    bool `help:"Payloads are hexadecimal: those that are given, and those that are printed."`
	Base64 bool `name:"base64" help:"The same as base64."`
}

// encoder returns what makes text of a payload; nil if it is text.
func (e encodingFlags) encoder() func([]byte) string {
	switch {
	case e.Hex:
		return hex.EncodeToString
	case e.Base64:
		return base64.StdEncoding.EncodeToString
	}
	return nil
}

// decode returns the payload that text stands for. White space in it means nothing.
func (e encodingFlags) decode(text []byte) ([]byte, error) {
	switch {
	case e.Hex && e.Base64:
		return nil, errors.New("--hex and --base64 exclude each other")
	case e.Hex:
		b, err := hex.DecodeString(withoutSpace(text))
		if err != nil {
			return nil, errors.New("the message is not hexadecimal: pairs of 0-9 and a-f")
		}
		return b, nil
	case e.Base64:
		return decodeBase64(withoutSpace(text))
	}
	return text, nil
}

// decodeBase64 reads base64 (RFC 4648 §4), with its padding or without.
func decodeBase64(text string) ([]byte, error) {
	coding := base64.StdEncoding.Strict()
	if len(text)%4 != 0 {
		coding = base64.RawStdEncoding.Strict()
	}
	b, err := coding.DecodeString(text)
	if err != nil {
		return nil, errors.New("the message is not base64")
	}
	return b, nil
}

func withoutSpace(b []byte) string {
	var kept []byte
	for _, c := range b {
		switch c {
		case ' ', '\t', '\r', '\n':
		default:
			kept = append(kept, c)
		}
	}
	return string(kept)
}
