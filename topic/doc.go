// Package topic knows Topic Names and Topic Filters: which are valid (name.go), which filter matches which name
// (match.go), what a Shared Subscription's filter is made of (share.go), how to find all filters that match one name
// (tree.go), and how to find all names that match one filter (retained.go).
//
// It refuses to know packets, clients, sessions, permissions and locks. What a subscriber or a retained message is,
// the caller says by type parameter; what is done about a match is the caller's business as well.
//
// Match is the oracle: short and obvious. Tree and Retained are fast and tested against it on random input.
//
// Everything but the two Validate functions takes for granted that its names and filters are valid; an invalid one
// does no harm to the structures, but which names it matches is not defined. Except for ParseShare and ValidateFilter,
// a filter is always meant without its "$share/{ShareName}/".
//
// Nothing here starts a goroutine, blocks, or recurses: a name of 65,535 levels costs time in proportion to its bytes,
// and no stack.
package topic
