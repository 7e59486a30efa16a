//go:build !race

package broker

// underRace says that the race detector is on.
const underRace = false
