package auth

import (
	"fmt"

	"github.com/magpiemq/magpie/mqtt"
)

// refuse returns the one answer that a guesser gets, wrapped with the reason for the log.
func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %w", mqtt.BadUserNameOrPassword, fmt.Errorf(format, args...))
}
