package interop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// command is a program that is killed a little before go test gives up, so that it never outlives the tests.
func command(t *testing.T, program string, args ...string) *exec.Cmd {
	ctx := context.Background()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-2*time.Second))
		t.Cleanup(cancel)
	}
	return exec.CommandContext(ctx, program, args...)
}

// run starts the program for the time of the test and returns when ready says so of a line that it has printed.
func run(t *testing.T, cmd *exec.Cmd, ready func(line string) bool) {
	t.Helper()
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer // the reader's until read is closed
	isReady, read := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		waiting := isReady
		for lines.Scan() {
			fmt.Fprintln(&log, lines.Text())
			if waiting != nil && ready(lines.Text()) {
				close(waiting)
				waiting = nil
			}
		}
		_, _ = io.Copy(io.Discard, out) // after a line that is too long: never make the program wait
	}()
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		in.Close()
	}()
	t.Cleanup(func() {
		if err := stop(cmd, ended); err != nil {
			t.Errorf("%s: %v", cmd.Path, err)
		}
		if <-read; t.Failed() {
			t.Logf("log of %s:\n%s", cmd.Path, log.Bytes())
		}
	})
	select {
	case <-isReady:
	case <-read:
		t.Fatalf("%s has ended at once", cmd.Path)
	case <-time.After(patience):
		t.Fatalf("%s does not come up", cmd.Path)
	}
}

// stop asks the process to end, insists after a while, and returns what was wrong with its end.
func stop(cmd *exec.Cmd, ended <-chan error) error {
	_ = cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended already, which shows below
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("still there %v after SIGTERM", patience)
	}
}

var (
	endMu sync.Mutex // guards ends
	ends  []func()
)

// atEnd runs the function after all tests.
func atEnd(end func()) {
	endMu.Lock()
	defer endMu.Unlock()
	ends = append(ends, end)
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, end := range ends {
		end()
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
