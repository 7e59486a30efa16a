package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be magpie itself in the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"magpie": func() { os.Exit(run(os.Args[1:])) }})
}
