package torture

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server is the process that is killed. It has one data directory all its lives long.
type server struct {
	binary, data string
	args         []string
	log          tail
	lives        int // so far

	mu      sync.Mutex // guards all below
	process *os.Process
	died    chan struct{} // closed when the process has ended
	addr    string        // where the process listens; empty before it has told
	web     string        // the same for HTTP
}

// newServer builds the binary and writes its configuration: files so small that they are changed, checkpointed and given back
// all the time.
func newServer(t *testing.T, config string) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{binary: filepath.Join(dir, "magpie"), data: filepath.Join(dir, "data")}
	if out, err := exec.Command("go", "build", "-o", s.binary, "../cmd/magpie").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	file := filepath.Join(dir, "magpie.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = []string{"serve", "--config", file, "--data", s.data, "--durability", "durable", "--mqtt", "127.0.0.1:0", "--log-level", "debug"}
	return s
}

// start starts the process and does not wait until it listens.
func (s *server) start() error {
	core := []string{"auto", "goroutine"}[s.lives%2] // each finds what the other one left
	s.lives++
	cmd := exec.Command(s.binary, append(s.args, "--io", core)...)
	cmd.Stderr = &s.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	died := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process, s.died, s.addr, s.web = cmd.Process, died, "", ""
	go func() {
		defer close(died)
		s.listen(out, died)
		_ = cmd.Wait()
	}()
	return nil
}

// listen reads what the process announces until it ends.
func (s *server) listen(out io.Reader, died chan struct{}) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		_, url, _ := strings.Cut(lines.Text(), "listening on ")
		url, _, _ = strings.Cut(url, " ")
		scheme, addr, _ := strings.Cut(url, "://")
		s.mu.Lock()
		if s.died == died && scheme == "mqtt" {
			s.addr = addr
		} else if s.died == died && scheme == "http" {
			s.web = addr
		}
		s.mu.Unlock()
	}
}

// address returns where the process listens, "" while it has not said so.
func (s *server) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// alive reports whether the process has not ended by itself.
func (s *server) alive() bool {
	select {
	case <-s.gone():
		return false
	default:
		return true
	}
}

// gone is closed when the process has ended.
func (s *server) gone() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.died
}

// kill ends the process with SIGKILL and waits until it is gone.
func (s *server) kill() {
	s.mu.Lock()
	s.addr = ""
	process, died := s.process, s.died
	s.mu.Unlock()
	if process == nil {
		return
	}
	_ = process.Kill() // an error means that it is gone
	<-died
}

// dump ends a process that does not go on, and has it write what its goroutines do.
func (s *server) dump() {
	s.mu.Lock()
	process, died := s.process, s.died
	s.mu.Unlock()
	s.log.keep(dumpBytes)
	_ = process.Signal(syscall.SIGQUIT)
	select {
	case <-died:
	case <-time.After(patience / 2):
	}
}

// tail keeps the last of what the broker wrote, for the failure.
type tail struct {
	mu   sync.Mutex
	buf  []byte
	most int
}

// How much is kept: of the log, and of the goroutines of a broker that hangs.
const (
	logBytes  = 32 << 10
	dumpBytes = 1 << 20
)

func (t *tail) keep(most int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.most = most
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if most := max(t.most, logBytes); len(t.buf) > 2*most {
		t.buf = bytes.Clone(t.buf[len(t.buf)-most:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf[max(0, len(t.buf)-max(t.most, logBytes)):])
}
