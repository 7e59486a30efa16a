package auth

import (
	"testing"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

func TestAllow(t *testing.T) {
	nameless := &broker.ConnectRequest{ClientID: "c1"}
	passwordless := login("anna", "")
	passwordless.HasPassword = false
	onlyPassword := &broker.ConnectRequest{HasPassword: true, Password: []byte("x")}
	static := Static{"anna": "secret", "empty": ""}
	tests := []struct {
		name string
		a    broker.Authenticator
		r    *broker.ConnectRequest
		want mqtt.ReasonCode // UnspecifiedError stands for no opinion
		user string
	}{
		{"anonymous", Anonymous{}, nameless, mqtt.Success, ""},
		{"anonymous with a name", Anonymous{}, login("anna", "x"), mqtt.UnspecifiedError, ""},
		{"anonymous with a password", Anonymous{}, onlyPassword, mqtt.UnspecifiedError, ""},
		{"everybody", Everybody{}, login("anna", "x"), mqtt.Success, ""},
		{"nobody", DenyAll{}, nameless, mqtt.BadUserNameOrPassword, ""},
		{"static", static, login("anna", "secret"), mqtt.Success, "anna"},
		{"static, wrong", static, login("anna", "secre"), mqtt.BadUserNameOrPassword, ""},
		{"static, unknown", static, login("bob", ""), mqtt.BadUserNameOrPassword, ""},
		{"static, no password", static, passwordless, mqtt.BadUserNameOrPassword, ""},
		{"static, empty password", static, login("empty", ""), mqtt.Success, "empty"},
		{"static, no name", static, nameless, mqtt.UnspecifiedError, ""},
		{"static, nil", Static(nil), login("anna", ""), mqtt.BadUserNameOrPassword, ""},
		{"client id", RequireClientID(static, "c1"), login("anna", "secret"), mqtt.Success, "anna"},
		{"other client id", RequireClientID(static, "%u"), login("anna", "secret"), mqtt.ClientIdentifierNotValid, ""},
		{"other client id, wrong password", RequireClientID(static, "%u"), login("anna", "x"), mqtt.BadUserNameOrPassword, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g, err := test.a.Authenticate(t.Context(), test.r)
			wantCode(t, err, test.want)
			if g.User != test.user {
				t.Errorf("became %q", g.User)
			}
		})
	}
}

func TestMatchesTemplate(t *testing.T) {
	for _, test := range []struct {
		template, user, client string
		want                   bool
	}{
		{"%u", "anna", "anna", true},
		{"%u", "anna", "anna-1", false},
		{"%u-*", "anna", "anna-1", true},
		{"%u-*", "anna", "annabel-1", false},
		{"%u-*", "", "-1", false},
		{"%u", "", "", false},
		{"*", "", "x", true},
		{"*", "", "", false},
		{"x*", "%u", "x%u", true},
		{"%u*", "*", "anna", false}, // a user's star is not ours
	} {
		if got := matchesTemplate(test.template, test.user, test.client); got != test.want {
			t.Errorf("%q for user %q, client %q: got %v", test.template, test.user, test.client, got)
		}
	}
}
