package main

import (
	"os"

	"github.com/rogpeppe/go-internal/testscript"
)

func cmdMosquittoDB(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: mosquittodb FILE")
	}
	b, err := os.ReadFile("internal/mosquitto/testdata/mosquitto.db")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}
