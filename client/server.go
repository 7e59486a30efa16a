package client

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// server is one to connect to. It belongs to the supervisor.
type server struct {
	url     *url.URL
	version mqtt.Version // that it has accepted; zero while that is not known
}

// parseServer reads a URL.
func parseServer(raw string) (*server, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("the address is not a URL") // without its text: it may hold a password
	}
	if err := transport.CheckURL(u); err != nil {
		return nil, err
	}
	return &server{url: u}, nil
}

// name is the URL without user and password.
func (s *server) name() string {
	u := *s.url
	u.User = nil
	return u.String()
}

// reference returns the Server Reference of a refusal or a DISCONNECT, empty if there is none, and whether it is for good (§4.11).
func reference(err error) (ref string, forGood bool) {
	var answer *ServerError
	if !errors.As(err, &answer) || answer.Code != mqtt.UseAnotherServer && answer.Code != mqtt.ServerMoved {
		return "", false
	}
	return answer.Props.String(mqtt.ServerReference), answer.Code == mqtt.ServerMoved
}

// refer makes a server of the first usable one in a Server Reference: "host", "host:port", with IPv6 in brackets, or a URL, several
// apart by spaces. Whoever sends us away chooses a host, not how safely we speak to it: the scheme stays, and with it TLS, as do user and
// password.
func (s *server) refer(ref string) (*server, error) {
	for word := range strings.FieldsSeq(ref) {
		if _, rest, isURL := strings.Cut(word, "://"); isURL {
			word, _, _ = strings.Cut(rest, "/")
		}
		other := *s.url
		other.Host = word
		u, err := url.Parse(other.String())
		if err != nil || s.url.Scheme == "unix" || u.Host != word || u.User.String() != s.url.User.String() {
			continue
		}
		if transport.CheckURL(u) == nil {
			return &server{url: u}, nil
		}
	}
	return nil, fmt.Errorf("the server reference %q names no server", ref)
}
