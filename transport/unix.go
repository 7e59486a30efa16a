package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// unixListener removes its socket file at the end, if it is still its own.
type unixListener struct {
	*net.UnixListener
	path string
	file os.FileInfo
	once sync.Once
}

func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: closedMode}
	ln, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	u := &unixListener{UnixListener: ln.(*net.UnixListener), path: path}
	u.SetUnlinkOnClose(false)
	if err := u.open(mode); err != nil {
		_ = ln.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return u, nil
}

// open lets clients in, as far as mode says, and remembers the file.
func (u *unixListener) open(mode fs.FileMode) error {
	if err := os.Chmod(u.path, mode); err != nil {
		return fmt.Errorf("setting the mode of the socket: %w", err)
	}
	file, err := os.Lstat(u.path)
	if err != nil {
		return fmt.Errorf("looking at the socket: %w", err)
	}
	u.file = file
	return nil
}

func (u *unixListener) Close() error {
	err := u.UnixListener.Close()
	u.once.Do(func() {
		if now, e := os.Lstat(u.path); e == nil && os.SameFile(now, u.file) {
			_ = os.Remove(u.path)
		}
	})
	return err
}

// removeStale removes the socket that a dead process left behind. Everything
// else at that path stays and is an error.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("looking for an old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s is in use: another process answers on it", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("asking who is behind the old socket: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the old socket: %w", err)
	}
	return nil
}
