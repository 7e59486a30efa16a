package auth

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Cheap hashes, so that tests do not wait for expensive ones. The first two were written by mosquitto_passwd.
const (
	hash7     = "$7$101$bfn8DzPFvU6ovshI$gWZpgKU6uGwRWYVRYyZgHvtmiSbna5/kHAaJKAEZdWTCLClqLPqfiOC/Na6HrwsJ9TEzM+kjwb3WDDdELwltJA=="                      // "pass word"
	hash6     = "$6$AkciQ5yuKUfx/es7$RRrq4XfNXC6pyP7wf97C3qtIRkPPC96EAbSbxI1bNsGMiDMgvqQ4B16fs2EwBMaKMd5x0V4R/6A94e0iqcgZew=="                          // "secret6"
	scramKeys = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=" // "pencil"
)

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	rewrite(t, path, text)
	return path
}

func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func login(user, password string) *broker.ConnectRequest {
	return &broker.ConnectRequest{
		ClientID: "c1", HasUsername: true, Username: user, HasPassword: true, Password: []byte(password),
		Version: mqtt.V5, Remote: addr("192.0.2.1"),
	}
}

func addr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 40000} }

func client(id, user string) *broker.ClientInfo { return &broker.ClientInfo{ClientID: id, User: user} }

// codeOf returns what the client hears: Success without an error, and UnspecifiedError where there is no code.
func codeOf(err error) mqtt.ReasonCode {
	var code mqtt.ReasonCode
	switch {
	case err == nil:
		return mqtt.Success
	case errors.As(err, &code):
		return code
	}
	return mqtt.UnspecifiedError
}

func wantCode(t testing.TB, err error, want mqtt.ReasonCode) {
	t.Helper()
	if got := codeOf(err); got != want {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

// authenticator is a function as an Authenticator.
type authenticator func(context.Context, *broker.ConnectRequest) (broker.Grant, error)

func (f authenticator) Authenticate(ctx context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	return f(ctx, r)
}

// always answers the same.
func always(g broker.Grant, err error) authenticator {
	return func(context.Context, *broker.ConnectRequest) (broker.Grant, error) { return g, err }
}
