//go:build !unix

package loadgen

import "time"

func descriptorLimit() (limit uint64, known bool) { return 0, false }

func ownTime() time.Duration { return 0 }
