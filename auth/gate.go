package auth

import (
	"context"
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
)

// gate bounds how many goroutines do expensive work at once.
type gate chan struct{}

func newGate(n int) gate { return make(gate, n) }

// enter waits for a place. When ctx ends first the client hears ServerBusy, whoever it claims to be.
func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for a free worker: %w", mqtt.ServerBusy, ctx.Err())
	}
}

func (g gate) leave() { <-g }
