package transport

import (
	"context"
	"net"
	"os"
	"testing"
)

// TestClosedMode: before the mode is set nobody may connect, whatever the umask.
func TestClosedMode(t *testing.T) {
	path := socketPath(t)
	lc := net.ListenConfig{Control: closedMode}
	ln, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	info, err := os.Lstat(path)
	if err != nil || info.Mode().String() != "S---------" {
		t.Errorf("file has %v (%v)", info.Mode(), err)
	}
}
