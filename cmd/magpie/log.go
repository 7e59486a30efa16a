package main

import (
	"fmt"
	"io"
	"log/slog"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
)

// logging is where log lines go: the format is fixed, level and destination can change.
type logging struct {
	level slog.LevelVar
	json  bool

	mu  sync.Mutex // guards all below, and keeps lines whole
	out io.Writer
}

// newLogging makes the logger of a configuration; preset is the level when it names none.
func newLogging(c config.Log, out io.Writer, preset slog.Level) (*logging, *slog.Logger) {
	l := &logging{json: c.Format == "json", out: out}
	l.setLevel(c.Level, preset)
	options := &slog.HandlerOptions{Level: &l.level}
	if l.json {
		return l, slog.New(slog.NewJSONHandler(l, options))
	}
	return l, slog.New(slog.NewTextHandler(l, options))
}

func (l *logging) setLevel(name string, preset slog.Level) {
	level := preset
	if name != "" {
		_ = level.UnmarshalText([]byte(name)) // the configuration takes known words only
	}
	l.level.Set(level)
}

// redirect sends further lines to another place, and returns the one before.
func (l *logging) redirect(out io.Writer) (before io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, l.out = l.out, out
	return before
}

// Write writes one line. Both handlers escape control characters below U+007F; the ones above, some of which move cursors as
// well or turn the direction of writing, are escaped in the text format by its quoting, and here for JSON.
func (l *logging) Write(line []byte) (int, error) {
	n := len(line)
	if l.json {
		line = escapeJSON(line)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.out.Write(line); err != nil {
		return 0, err
	}
	return n, nil
}

// escapeJSON escapes characters from U+007F on that are not printable. In JSON they can only stand in a string.
func escapeJSON(line []byte) []byte {
	var safe []byte
	for i := 0; i < len(line); {
		r, n := utf8.DecodeRune(line[i:])
		if r >= 0x7F && !unicode.IsPrint(r) && r != utf8.RuneError {
			if safe == nil {
				safe = append(make([]byte, 0, len(line)+16), line[:i]...)
			}
			safe = appendEscaped(safe, r)
		} else if safe != nil {
			safe = append(safe, line[i:i+n]...)
		}
		i += n
	}
	if safe == nil {
		return line
	}
	return safe
}

func appendEscaped(b []byte, r rune) []byte {
	if r > 0xFFFF {
		r -= 0x10000
		return fmt.Appendf(b, `\u%04x\u%04x`, 0xD800+r>>10, 0xDC00+r&0x3FF)
	}
	return fmt.Appendf(b, `\u%04x`, r)
}
