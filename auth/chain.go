package auth

import (
	"context"
	"errors"
	"time"

	"github.com/magpiemq/magpie/broker"
)

// Chain asks every one of its authenticators, one after the other, so that the time it takes does not tell who knows
// the user. A refusal wins, the first one if there are several; otherwise at least one must let the client in. If none
// has an opinion the client hears the same as after a wrong password.
//
// When several let the client in, the user is the first one's who names any, every Access must agree, and the earliest
// end counts.
type Chain []broker.Authenticator

// Authenticate decides; it blocks as long as its members do together.
func (c Chain) Authenticate(ctx context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	var all broker.Grant
	var allowed bool
	var refused error
	for _, a := range c {
		g, err := a.Authenticate(ctx, r)
		switch {
		case err == nil:
			all, allowed = mergeGrants(all, g), true
		case !errors.Is(err, broker.ErrNoOpinion) && refused == nil:
			refused = err
		}
	}
	switch {
	case refused != nil:
		return broker.Grant{}, refused
	case !allowed:
		return broker.Grant{}, refuse("nobody knows user %q", r.Username)
	}
	return all, nil
}

func mergeGrants(a, b broker.Grant) broker.Grant {
	if a.User == "" {
		a.User = b.User
	}
	switch {
	case a.Access == nil:
		a.Access = b.Access
	case b.Access != nil:
		a.Access = Authorizers{a.Access, b.Access}
	}
	a.Expires = earliest(a.Expires, b.Expires)
	return a
}

// earliest takes zero as never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Authorizers asks each of its members. A refusal wins; otherwise at least one must allow; if none has an opinion
// neither has Authorizers.
type Authorizers []broker.Authorizer

// Authorize decides; it blocks as long as its members do together.
func (as Authorizers) Authorize(c *broker.ClientInfo, act broker.Action, topic string) error {
	answer := broker.ErrNoOpinion
	for _, a := range as {
		switch err := a.Authorize(c, act, topic); {
		case err == nil:
			answer = nil
		case !errors.Is(err, broker.ErrNoOpinion):
			return err
		}
	}
	return answer
}

// DecidesAtOnce reports whether all members do; see [broker.Prompt].
func (as Authorizers) DecidesAtOnce() bool {
	for _, a := range as {
		if p, ok := a.(broker.Prompt); !ok || !p.DecidesAtOnce() {
			return false
		}
	}
	return true
}

// neverDenier is an authorizer that can promise not to deny reading anything that a filter matches.
type neverDenier interface {
	neverDeniesRead(c *broker.ClientInfo, filter string) bool
}

// CoversRead reports whether one member covers the filter and no other can deny any of it.
func (as Authorizers) CoversRead(c *broker.ClientInfo, filter string) bool {
	var covered bool
	for _, a := range as {
		switch {
		case covers(a, c, filter):
			covered = true
		case !neverDenies(a, c, filter):
			return false
		}
	}
	return covered
}

func (as Authorizers) neverDeniesRead(c *broker.ClientInfo, filter string) bool {
	for _, a := range as {
		if !covers(a, c, filter) && !neverDenies(a, c, filter) {
			return false
		}
	}
	return true
}

func covers(a broker.Authorizer, c *broker.ClientInfo, filter string) bool {
	cov, ok := a.(broker.Coverer)
	return ok && cov.CoversRead(c, filter)
}

func neverDenies(a broker.Authorizer, c *broker.ClientInfo, filter string) bool {
	n, ok := a.(neverDenier)
	return ok && n.neverDeniesRead(c, filter)
}
