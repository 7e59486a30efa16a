package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// failure is an error with what the command line adds to it: the remedy, and the exit code.
type failure struct {
	err  error
	hint string // what to do about it; empty if we do not know
	code int    // exit code
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// hinted adds a remedy to an error of a command that was understood but failed (exit code 1). An error that is nil stays so.
func hinted(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &failure{err, hint, 1}
}

// usage makes err one of the command line or configuration (exit code 2), with a remedy if hint is not empty.
func usage(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &failure{err, hint, 2}
}

// usagef is usage for a new error without a hint.
func usagef(format string, args ...any) error { return usage(fmt.Errorf(format, args...), "") }

// errQuiet ends a command with exit code 1 when everything has been said.
var errQuiet = errors.New("")

// fail prints err, one line for the error and one for the hint, and returns the exit code.
func fail(err error) int {
	if err == nil {
		return 0
	}
	f := &failure{err: err, code: 1}
	errors.As(err, &f)
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(os.Stderr, "magpie: %s\n", strings.TrimRight(line, "\n"))
	}
	if f.hint != "" {
		fmt.Fprintf(os.Stderr, "magpie: hint: %s\n", f.hint)
	}
	return f.code
}

// usageHint says where to read about the command that was not understood.
func usageHint(_ *kong.Context, err error) string {
	var p *kong.ParseError
	if errors.As(err, &p) && p.Context != nil && p.Context.Selected() != nil {
		return "try: " + p.Context.Selected().FullPath() + " --help"
	}
	return "try: magpie --help"
}
