//go:build torture

package torture

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// server is the process that is killed. It has one address and one data directory all its lives long.
type server struct {
	binary, data, addr string
	cmd                *exec.Cmd
	died               chan struct{} // closed when the process has ended
	log                tail
}

// newServer builds the binary and finds an address.
func newServer(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{binary: filepath.Join(dir, "magpie"), data: filepath.Join(dir, "data"), addr: freeAddress(t)}
	if out, err := exec.Command("go", "build", "-o", s.binary, "../cmd/magpie").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return s
}

// freeAddress returns an address on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// start starts the process.
func (s *server) start() error {
	s.cmd = exec.Command(s.binary, "serve", "--durability", "durable", "--data", s.data, "--mqtt", s.addr, "--http", "off", "--log-level", "warn")
	s.cmd.Stderr = &s.log
	s.cmd.Env = os.Environ()
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	s.died = make(chan struct{})
	go func(cmd *exec.Cmd, died chan struct{}) {
		_ = cmd.Wait()
		close(died)
	}(s.cmd, s.died)
	return nil
}

// alive reports whether the process has not ended by itself.
func (s *server) alive() bool {
	select {
	case <-s.died:
		return false
	default:
		return true
	}
}

// kill ends the process with SIGKILL and waits until it is gone.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // an error means that it is gone
	<-s.died
}

// tail keeps the last of what the broker wrote, for the failure.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - tailBytes; n > 0 {
		t.buf = bytes.Clone(t.buf[n:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
