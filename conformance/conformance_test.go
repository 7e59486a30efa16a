package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets many cases run at once: they mostly wait, some for the seconds
// that the protocol counts.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "64"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// TestScripts runs every case in each of its versions, over both transports,
// and over TCP once more with a goroutine for each connection. Each file and
// each set of settings has brokers of its own; with
// MAGPIE_CONFORMANCE_ADDR (and MAGPIE_CONFORMANCE_WS) the broker that listens
// there is tried instead, without the cases that need settings.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(file), "testdata/"), ".txt"), func(t *testing.T) {
			t.Parallel()
			runFile(t, file)
		})
	}
}

func runFile(t *testing.T, file string) {
	cases, err := ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range forms() {
		targets := map[string]Target{}
		for _, c := range cases {
			if c.Only != "" && c.Only != f.transport {
				continue
			}
			if c.Alone {
				runCase(t, c, f, nil)
				continue
			}
			settings := settingsOf(t, c)
			target, ok := targets[settings]
			if !ok {
				if target, ok = start(t, c.With, f.io); !ok {
					continue
				}
				targets[settings] = target
			}
			runCase(t, c, f, &target)
		}
	}
}

// runCase runs c in all its versions; without a target each gets its own.
func runCase(t *testing.T, c *Case, f form, target *Target) {
	for _, v := range c.Versions {
		t.Run(c.Title+"/"+v.String()+"/"+f.name, func(t *testing.T) {
			t.Parallel()
			runOnce(t, c, f, target, v)
		})
	}
}

func runOnce(t *testing.T, c *Case, f form, shared *Target, v Version) {
	target := shared
	if target == nil {
		own, ok := start(t, map[string]string{}, f.io)
		if !ok {
			return
		}
		target = &own
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Run(ctx, *target, f.transport, v); err != nil {
		t.Error(err)
	}
}

func settingsOf(t *testing.T, c *Case) string {
	t.Helper()
	text, err := json.Marshal(c.With) // sorts by name
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// external returns the broker named by the environment.
func external() (Target, bool) {
	target := Target{TCP: os.Getenv("MAGPIE_CONFORMANCE_ADDR"), WS: os.Getenv("MAGPIE_CONFORMANCE_WS")}
	return target, target.TCP != ""
}

// TestStatements demands that every citation names a statement that exists,
// and that every statement has a test or a reason for having none.
func TestStatements(t *testing.T) {
	survey, err := NewSurvey("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range survey.Problems() {
		t.Error(problem)
	}
	counts := map[Version]int{}
	for _, r := range survey.Rules {
		counts[r.Version]++
	}
	// The numbers of rows in Appendix B of either standard.
	if counts[V5] != 251 || counts[V311] != 141 {
		t.Errorf("statements listed: %v, want 251 of 5.0 and 141 of 3.1.1", counts)
	}
}

// TestTable demands that docs/conformance.md is what the generator writes.
func TestTable(t *testing.T) {
	survey, err := NewSurvey("..")
	if err != nil {
		t.Fatal(err)
	}
	committed, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(committed, survey.Markdown()) {
		t.Error("docs/conformance.md is stale; run go run ./conformance/cmd/table")
	}
}
