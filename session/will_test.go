package session

import (
	"math"
	"testing"
	"time"
)

// A Will is published after its delay or at the end of the session, whichever comes first (§3.1.3.2.2).
func TestWillDue(t *testing.T) {
	const longest = math.MaxUint32 * time.Second // of a Will Delay Interval
	tests := []struct{ delay, expiry, want time.Duration }{
		{0, 0, 0},
		{0, time.Hour, 0},
		{0, Never, 0},
		{time.Minute, 0, 0}, // the session ends with its connection
		{time.Minute, time.Second, time.Second},
		{time.Minute, time.Minute, time.Minute},
		{time.Minute, time.Hour, time.Minute},
		{time.Minute, Never, time.Minute},
		{longest, Never, longest},
		{longest, longest - time.Second, longest - time.Second},
	}
	for _, tt := range tests {
		if got := WillDue(tt.delay, tt.expiry); got != tt.want {
			t.Errorf("delay %v, expiry %v: got %v, want %v", tt.delay, tt.expiry, got, tt.want)
		}
	}
}
