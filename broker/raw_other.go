//go:build !unix

package broker

import (
	"errors"
	"net"
)

// rawIO is only there on Unix; elsewhere every connection is read and written through net.Conn.
type rawIO struct{}

func newRawIO(net.Conn) *rawIO { return nil }

func (*rawIO) fill(*input) (int, error) { return 0, errors.ErrUnsupported }

func (*rawIO) fillNow(*input) (int, error) { return 0, errors.ErrUnsupported }

func (*rawIO) tryWrite([]byte) (int, error) { return 0, errors.ErrUnsupported }
