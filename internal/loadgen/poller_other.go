//go:build !linux

package loadgen

import (
	"context"
	"errors"
)

// target is where raw sockets would connect to.
type target struct{}

// hasRaw tells that there are no raw sockets on this system.
const hasRaw = false

func resolve(context.Context, *Plan) (*target, error) { return nil, errors.ErrUnsupported }

func newRawPoller(*loop, *target) (poller, error) { return nil, errors.ErrUnsupported }

func settle() {}
