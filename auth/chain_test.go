package auth

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

func TestChain(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	anna := always(broker.Grant{User: "anna", Expires: late}, nil)
	bob := always(broker.Grant{User: "bob", Expires: early}, nil)
	nobody := always(broker.Grant{}, nil)
	silent := always(broker.Grant{User: "x"}, fmt.Errorf("wrapped: %w", broker.ErrNoOpinion))
	deny := always(broker.Grant{User: "x"}, mqtt.Banned)
	deny2 := always(broker.Grant{}, mqtt.NotAuthorized)
	tests := []struct {
		name  string
		chain Chain
		want  mqtt.ReasonCode
		grant broker.Grant
	}{
		{"empty", nil, mqtt.BadUserNameOrPassword, broker.Grant{}},
		{"silent", Chain{silent}, mqtt.BadUserNameOrPassword, broker.Grant{}},
		{"one", Chain{silent, anna, silent}, mqtt.Success, broker.Grant{User: "anna", Expires: late}},
		{"first user, earliest end", Chain{anna, bob}, mqtt.Success, broker.Grant{User: "anna", Expires: early}},
		{"who names a user", Chain{nobody, bob}, mqtt.Success, broker.Grant{User: "bob", Expires: early}},
		{"deny after", Chain{anna, deny}, mqtt.Banned, broker.Grant{}},
		{"deny before", Chain{deny, anna}, mqtt.Banned, broker.Grant{}},
		{"first denial", Chain{deny2, anna, deny}, mqtt.NotAuthorized, broker.Grant{}},
		{"broken", Chain{anna, always(broker.Grant{}, errors.New("disk"))}, mqtt.UnspecifiedError, broker.Grant{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g, err := test.chain.Authenticate(t.Context(), login("anna", "x"))
			wantCode(t, err, test.want)
			if g != test.grant {
				t.Errorf("got %+v, want %+v", g, test.grant)
			}
			if errors.Is(err, broker.ErrNoOpinion) {
				t.Error("a chain has an opinion")
			}
		})
	}
}

// Whoever refuses, everybody is asked: time does not tell who knows the user.
func TestA14ChainAsksEverybody(t *testing.T) {
	asked := 0
	count := authenticator(func(context.Context, *broker.ConnectRequest) (broker.Grant, error) {
		asked++
		return broker.Grant{}, mqtt.BadUserNameOrPassword
	})
	_, err := Chain{count, count, DenyAll{}, count}.Authenticate(t.Context(), login("anna", "x"))
	wantCode(t, err, mqtt.BadUserNameOrPassword)
	if asked != 3 {
		t.Errorf("%d of 3 were asked", asked)
	}
}

func TestChainAccess(t *testing.T) {
	one, err := NewTopics([]string{"a", "b"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	two, err := NewTopics([]string{"b", "c"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Chain{always(broker.Grant{Access: one}, nil), always(broker.Grant{Access: two}, nil)}.Authenticate(t.Context(), login("anna", "x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"a": false, "b": true, "c": false} {
		if got := g.Access.Authorize(client("c", ""), w, name) == nil; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// bare hides what an authorizer can besides Authorize.
type bare struct{ broker.Authorizer }

func TestAuthorizers(t *testing.T) {
	a := parseACL(t, "topic read a/#\ntopic deny a/x")
	b := parseACL(t, "topic read b/#\ntopic read a/only-b")
	tests := []struct {
		name   string
		all    Authorizers
		topic  string
		want   error
		covers bool
	}{
		{"none", nil, "a/1", broker.ErrNoOpinion, false},
		{"one of two", Authorizers{a, b}, "a/1", nil, true},
		{"other of two", Authorizers{a, b}, "b/1", nil, true},
		{"denied by the first", Authorizers{a, AllowAll{}}, "a/x", mqtt.NotAuthorized, false},
		{"denied by the last", Authorizers{AllowAll{}, a}, "a/x", mqtt.NotAuthorized, false},
		{"denied in part", Authorizers{AllowAll{}, a}, "a/#", nil, false},
		{"nobody speaks", Authorizers{a, b}, "c", broker.ErrNoOpinion, false},
		{"somebody may deny", Authorizers{a, bare{b}}, "a/1", nil, false},
		{"nested", Authorizers{Authorizers{a}, Authorizers{b}}, "b/1", nil, true},
		{"nested denial", Authorizers{AllowAll{}, Authorizers{b, DenyAll{}}}, "b/1", mqtt.NotAuthorized, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.topic != "a/#" {
				if err := test.all.Authorize(client("c", ""), r, test.topic); err != test.want {
					t.Errorf("got %v, want %v", err, test.want)
				}
			}
			if got := test.all.CoversRead(client("c", ""), test.topic); got != test.covers {
				t.Errorf("covers: got %v", got)
			}
		})
	}
}
