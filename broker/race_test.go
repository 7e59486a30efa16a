//go:build race

package broker

// underRace says that the race detector is on, which makes everything slower: the longest tests do a part of their rounds then.
const underRace = true
