package transport

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sock") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "m.sock")
}

func TestUnix(t *testing.T) {
	path := socketPath(t)
	l := open(t, Config{Network: Unix, Address: path})
	client, server := pair(t, l, DialConfig{})
	send(t, client, server, "to the server")
	send(t, server, client, "to the client")
	if _, err := server.SyscallConn(); err != nil {
		t.Error(err)
	}
	if _, ok := server.NetConn().(*net.UnixConn); !ok {
		t.Errorf("NetConn is a %T", server.NetConn())
	}
	if info := server.Info(); info.Network != Unix || info.Remote == nil {
		t.Errorf("info %+v", info)
	}
	l.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after Close the socket file: %v", err)
	}
	// And the path is free again.
	open(t, Config{Network: Unix, Address: path})
}

func TestUnixMode(t *testing.T) {
	for mode, want := range map[os.FileMode]string{0: "Srw-rw----", 0o600: "Srw-------", 0o666: "Srw-rw-rw-"} {
		path := socketPath(t)
		open(t, Config{Network: Unix, Address: path, UnixMode: mode})
		info, err := os.Lstat(path)
		if err != nil || info.Mode().String() != want {
			t.Errorf("mode %#o: file has %v (%v), want %s", mode, info.Mode(), err, want)
		}
	}
}

// leaveSocket leaves a socket file that nobody answers on.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
}

func TestUnixStale(t *testing.T) {
	path := socketPath(t)
	leaveSocket(t, path)
	l := open(t, Config{Network: Unix, Address: path})
	client, server := pair(t, l, DialConfig{})
	send(t, client, server, "hello")
}

func TestUnixInUse(t *testing.T) {
	path := socketPath(t)
	l := open(t, Config{Network: Unix, Address: path})
	_, err := Listen(Config{Network: Unix, Address: path})
	wantError(t, err, path+" is in use: another process answers on it")
	accept(t, l).Close() // the question whether anybody is there
	client, server := pair(t, l, DialConfig{})
	send(t, client, server, "the first listener still works")
}

func TestUnixNotASocket(t *testing.T) {
	path := socketPath(t)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Listen(Config{Network: Unix, Address: path})
	wantError(t, err, path+" exists and is not a socket")
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is gone")
	}
}

// TestUnixCloseKeepsSuccessor: a listener that took the path over is not robbed of its file.
func TestUnixCloseKeepsSuccessor(t *testing.T) {
	path := socketPath(t)
	l := open(t, Config{Network: Unix, Address: path})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor := open(t, Config{Network: Unix, Address: path})
	l.Close()
	client, server := pair(t, successor, DialConfig{})
	send(t, client, server, "hello")
}

func TestUnixNoDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "x.sock")
	_, err := Listen(Config{Network: Unix, Address: path})
	wantError(t, err, fmt.Sprintf("listener unix://%s: ", path))
}
