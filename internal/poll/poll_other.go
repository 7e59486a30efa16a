//go:build !linux

package poll

import (
	"errors"
	"net"
	"time"
)

// Poller is there on Linux only.
type Poller struct{}

// New returns errors.ErrUnsupported.
func New() (*Poller, error) { return nil, errors.ErrUnsupported }

// Close does nothing: there is no Poller.
func (*Poller) Close() error { return nil }

// Take returns errors.ErrUnsupported.
func (*Poller) Take(net.Conn) (int, error) { return -1, errors.ErrUnsupported }

// Give returns errors.ErrUnsupported.
func (*Poller) Give(int) (net.Conn, error) { return nil, errors.ErrUnsupported }

// Add returns errors.ErrUnsupported.
func (*Poller) Add(int, uint32) error { return errors.ErrUnsupported }

// Shut does nothing.
func (*Poller) Shut(int) {}

// Wait returns errors.ErrUnsupported.
func (*Poller) Wait([]Event, time.Duration) (int, error) { return 0, errors.ErrUnsupported }

// Wake does nothing.
func (*Poller) Wake() {}

// Pause does nothing.
func (*Poller) Pause(time.Duration) {}

// Read returns errors.ErrUnsupported.
func (*Poller) Read(int, []byte) (int, error) { return 0, errors.ErrUnsupported }

// Write returns errors.ErrUnsupported.
func (*Poller) Write(int, []byte) (int, error) { return 0, errors.ErrUnsupported }
