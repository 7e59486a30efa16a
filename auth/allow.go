package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// Anonymous lets in clients that bring neither user name nor password, as nobody in particular, and leaves the others
// to others: what follows a password file in a [Chain] where anonymous clients are welcome beside known ones.
type Anonymous struct{}

// Authenticate lets in who brings no credentials.
func (Anonymous) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if r.HasUsername || r.HasPassword {
		return broker.Grant{}, broker.ErrNoOpinion
	}
	return broker.Grant{}, nil
}

// Everybody lets in everybody, as nobody in particular: a user name that was not verified grants nothing.
type Everybody struct{}

// Authenticate lets the client in.
func (Everybody) Authenticate(context.Context, *broker.ConnectRequest) (broker.Grant, error) {
	return broker.Grant{}, nil
}

// DenyAll lets nobody in and nobody do anything.
type DenyAll struct{}

// Authenticate refuses.
func (DenyAll) Authenticate(context.Context, *broker.ConnectRequest) (broker.Grant, error) {
	return broker.Grant{}, refuse("nobody may connect")
}

// Authorize refuses.
func (DenyAll) Authorize(*broker.ClientInfo, broker.Action, string) error { return mqtt.NotAuthorized }

// CoversRead reports false.
func (DenyAll) CoversRead(*broker.ClientInfo, string) bool { return false }

// DecidesAtOnce is true.
func (DenyAll) DecidesAtOnce() bool { return true }

// AllowAll lets everybody do everything, topics that begin with $ included.
type AllowAll struct{}

// Authorize allows.
func (AllowAll) Authorize(*broker.ClientInfo, broker.Action, string) error { return nil }

// CoversRead reports true.
func (AllowAll) CoversRead(*broker.ClientInfo, string) bool { return true }

// DecidesAtOnce is true.
func (AllowAll) DecidesAtOnce() bool { return true }

func (AllowAll) neverDeniesRead(*broker.ClientInfo, string) bool { return true }

// Static holds users and their passwords in the clear, for tests, examples and embedding programs that get them from
// elsewhere. It must not be changed while it is in use.
type Static map[string]string

// Authenticate checks the password. A client without user name is left to others.
func (s Static) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if !r.HasUsername {
		return broker.Grant{}, broker.ErrNoOpinion
	}
	password, known := s[r.Username]
	want, got := sha256.Sum256([]byte(password)), sha256.Sum256(r.Password) // equal lengths for the comparison
	right := subtle.ConstantTimeCompare(want[:], got[:]) == 1
	if !right || !known || !r.HasPassword {
		return broker.Grant{}, refuse("unknown user %q or wrong password", r.Username)
	}
	return broker.Grant{User: r.Username}, nil
}

// RequireClientID lets in whom next lets in, if the Client Identifier is what the template says: %u stands for the
// user and a * at the end for any rest, as in "%u" or "%u-*". It keeps one credential from opening sessions without
// number: without the * there is one session per user. Others hear ClientIdentifierNotValid.
func RequireClientID(next broker.Authenticator, template string) broker.Authenticator {
	return clientIDRule{next, template}
}

type clientIDRule struct {
	next     broker.Authenticator
	template string
}

func (c clientIDRule) Authenticate(ctx context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	g, err := c.next.Authenticate(ctx, r)
	if err != nil {
		return g, err
	}
	if !matchesTemplate(c.template, g.User, r.ClientID) {
		return broker.Grant{}, fmt.Errorf("%w: %q of user %q is not of the form %q",
			mqtt.ClientIdentifierNotValid, r.ClientID, g.User, c.template)
	}
	return g, nil
}

func matchesTemplate(template, user, clientID string) bool {
	if clientID == "" || strings.Contains(template, "%u") && user == "" {
		return false
	}
	head, open := strings.CutSuffix(template, "*")
	head = strings.ReplaceAll(head, "%u", user)
	if open {
		return strings.HasPrefix(clientID, head)
	}
	return clientID == head
}
