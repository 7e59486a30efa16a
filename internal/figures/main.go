package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

// settings are what the flags say.
type settings struct {
	dir      string        // where the brokers keep their data
	binary   string        // of magpie; built when it is empty
	rounds   int           // of which the medians are
	time     time.Duration // of each measurement
	payload  int           // bytes
	messages int           // of the queue
	only     *regexp.Regexp
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	measurements := map[string]func(*settings) error{"durable": measureDurable, "queue": measureQueue}
	if len(args) == 0 || measurements[args[0]] == nil {
		return fmt.Errorf("say what to measure: durable or queue")
	}
	s := &settings{}
	flags := flag.NewFlagSet("figures "+args[0], flag.ExitOnError)
	flags.StringVar(&s.dir, "dir", os.TempDir(), "folder on the disk to be measured")
	flags.StringVar(&s.binary, "binary", "", "magpie binary; empty builds it")
	flags.IntVar(&s.rounds, "rounds", 5, "rounds")
	flags.DurationVar(&s.time, "time", 3*time.Second, "time of one measurement")
	flags.IntVar(&s.payload, "payload", 64, "bytes of a payload")
	flags.IntVar(&s.messages, "messages", 1_000_000, "messages of the queue")
	only := flags.String("only", "", `only what this regular expression matches, such as "256 publishers, window 1, magpie"`)
	_ = flags.Parse(args[1:]) // exits
	var err error
	if s.only, err = regexp.Compile(*only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if s.dir, err = os.MkdirTemp(s.dir, "figures"); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(s.dir) }()
	if s.binary == "" {
		if s.binary, err = build(s.dir); err != nil {
			return err
		}
	}
	return measurements[args[0]](s)
}

// build compiles the binary that is measured.
func build(dir string) (string, error) {
	binary := filepath.Join(dir, "magpie")
	out, err := exec.Command("go", "build", "-o", binary, "github.com/magpiemq/magpie/cmd/magpie").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build magpie: %w\n%s", err, out)
	}
	return binary, nil
}

// progress tells on standard error what is going on.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
