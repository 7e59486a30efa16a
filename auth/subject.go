package auth

import (
	"strings"

	"github.com/magpiemq/magpie/broker"
)

// subject is a client as access rules see it.
type subject struct {
	client, user         string
	clientFits, userFits bool // may stand for %c, %u
}

func subjectOf(c *broker.ClientInfo) subject { return newSubject(c.ClientID, c.User) }

func newSubject(client, user string) subject {
	return subject{client, user, fitsLevel(client), fitsLevel(user)}
}

// fitsLevel reports whether a name may stand for one topic level. A name with a wildcard, a slash or a dollar sign
// could pretend to be something else (CVE-2017-7650), and an empty one nobody chose.
func fitsLevel(name string) bool {
	return name != "" && !strings.ContainsAny(name, "+#/$")
}

// expand replaces %c and %u in a template that is compared as a whole, as against a claim of a token. It reports false
// when a name that the template needs is empty.
func expand(template, client, user string) (string, bool) {
	if strings.Contains(template, "%c") && client == "" || strings.Contains(template, "%u") && user == "" {
		return "", false
	}
	return strings.NewReplacer("%c", client, "%u", user).Replace(template), true
}
