package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// progress is one line on a terminal that tells how far a command is. Where there is no terminal it is silent.
type progress struct {
	out     io.Writer // nil when there is no terminal
	what    string
	percent int // shown last
	width   int // of what is shown
}

// newProgress makes one that is shown as soon as there is something to tell.
func newProgress(what string, f *os.File) *progress {
	p := &progress{what: what, percent: -1}
	if term.IsTerminal(int(f.Fd())) {
		p.out = f
	}
	return p
}

// show tells that so many of all bytes are done. It writes only what has changed.
func (p *progress) show(done, total int64) {
	if p.out == nil || total <= 0 {
		return
	}
	percent := int(min(done, total) * 100 / total)
	if percent == p.percent {
		return
	}
	const wide = 40
	full := percent * wide / 100
	line := fmt.Sprintf("%s [%s%s] %3d %% of %s", p.what, strings.Repeat("#", full), strings.Repeat(" ", wide-full), percent, sizeWord(total))
	fmt.Fprint(p.out, "\r"+line)
	p.percent, p.width = percent, len(line)
}

// end clears the line.
func (p *progress) end() {
	if p.width > 0 {
		fmt.Fprint(p.out, "\r"+strings.Repeat(" ", p.width)+"\r")
		p.width = 0
	}
}

// sizeWord is a number of bytes for people.
func sizeWord(n int64) string {
	if n < 1<<10 {
		return count(int(n), "byte")
	}
	f, unit := float64(n)/(1<<10), 0
	for f >= 1<<10 && unit < 3 {
		f, unit = f/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %s", f, [...]string{"KiB", "MiB", "GiB", "TiB"}[unit])
}
