package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// ACL is a parsed access control list. It is immutable and safe for many goroutines.
//
// A client's rules are those of its user, or those for anonymous clients if it has none, and those of the pattern
// lines. A denial wins over every grant. When no line speaks the answer is ErrNoOpinion, which means no unless another
// [broker.Authorizer] says yes.
//
// Write and Read are decided by the Topic Name. For Subscribe, a denial that covers the filter refuses it; then, if
// any subscribe line overlaps the filter, one of them must cover it; without such a line the filter is allowed if a
// read line overlaps it, and every delivery is decided by Read. Subscribing alone does not allow reading.
//
// In pattern lines %c stands for the Client Identifier and %u for the user. A name that is empty or contains + # / or $
// fits no level: grants with its variable are void for that client, and denials with it hold for every value, so that
// no choice of name widens access.
//
// Wildcards at the start do not match topics that begin with $, in denials neither (§4.7.2).
type ACL struct {
	path      string
	anonymous rules
	users     map[string]rules
	everybody rules // pattern lines
}

// ParseACL reads an access control list in Mosquitto's format; path is for error messages. One line is one of
//
//	topic [read|write|readwrite|subscribe|deny] FILTER
//	pattern [read|write|readwrite|subscribe|deny] FILTER
//	user NAME
//	anonymous
//
// Without a word for the access it is readwrite; a filter with a space needs the word. Topic lines are for the user
// named above them; those before the first user line, or below anonymous, are for clients without a user. Pattern
// lines are for everybody wherever they stand. Empty lines and lines that begin with # are skipped.
//
// Different from Mosquitto: subscribe and anonymous are ours; %c and %u must be a whole level; a line that is not
// understood is an error for the whole file, and so is a file without any rule.
func ParseACL(path string, data []byte) (*ACL, error) {
	p := aclParser{acl: &ACL{path: path, users: map[string]rules{}}}
	for line, text := range lines(data) {
		if err := p.line(line, strings.TrimSpace(text)); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
	}
	if p.count == 0 {
		return nil, fmt.Errorf("%s: no rules, so nobody may do anything; write for example: pattern readwrite devices/%%u/#", path)
	}
	return p.acl, nil
}

type aclParser struct {
	acl   *ACL
	user  string // of the lines that follow; empty means anonymous
	count int
}

func (p *aclParser) line(n int, text string) error {
	if !utf8.ValidString(text) {
		return errors.New("not well-formed UTF-8")
	}
	word, rest := cutSpace(text)
	switch {
	case text == "" || text[0] == '#':
		return nil
	case word == "topic" || word == "pattern":
		return p.rule(n, word, rest)
	case word == "user":
		return p.section(rest)
	case word == "anonymous" && rest == "":
		p.user = ""
		return nil
	}
	return fmt.Errorf("%q is not understood; a line begins with topic, pattern, user or anonymous", word)
}

func (p *aclParser) section(name string) error {
	if err := checkText("user", name); err != nil {
		return fmt.Errorf("%w; write: user NAME", err)
	}
	p.user = name
	return nil
}

func (p *aclParser) rule(n int, word, rest string) error {
	a, filter, err := parseAccess(rest)
	if err != nil {
		return err
	}
	r, err := compileRule(n, a, filter, word == "pattern")
	if err != nil {
		return err
	}
	p.count++
	list := &p.acl.everybody
	switch {
	case word == "pattern":
	case p.user == "":
		list = &p.acl.anonymous
	default:
		p.acl.users[p.user] = append(p.acl.users[p.user], r)
		return nil
	}
	*list = append(*list, r)
	return nil
}

var accessWords = map[string]access{
	"read":      mayRead,
	"write":     mayWrite,
	"readwrite": mayRead | mayWrite,
	"subscribe": maySubscribe,
	"deny":      denied,
}

// parseAccess splits `[access] filter`. A single word is a filter, even "read".
func parseAccess(s string) (access, string, error) {
	word, filter := cutSpace(s)
	a, ok := accessWords[word]
	switch {
	case s == "":
		return 0, "", errors.New("no topic filter; write: topic read FILTER")
	case filter == "":
		return mayRead | mayWrite, word, nil
	case !ok:
		return 0, "", fmt.Errorf("unknown access %q; write read, write, readwrite, subscribe or deny before a filter with spaces", word)
	}
	return a, filter, nil
}

// cutSpace splits a line after its first word.
func cutSpace(s string) (word, rest string) {
	at := strings.IndexAny(s, " \t")
	if at < 0 {
		return s, ""
	}
	return s[:at], strings.TrimLeft(s[at:], " \t")
}

// of returns the rules of a user.
func (a *ACL) of(user string) rules {
	if user == "" {
		return a.anonymous
	}
	return a.users[user]
}

// Authorize decides; see [ACL]. It neither blocks nor, for Write and Read, allocates.
func (a *ACL) Authorize(c *broker.ClientInfo, act broker.Action, topic string) error {
	s := subjectOf(c)
	v := decide(&s, act, topic, a.of(c.User), a.everybody)
	return v.answer()
}

// DecidesAtOnce is true: nobody else is asked; see [broker.Prompt].
func (*ACL) DecidesAtOnce() bool { return true }

// CoversRead reports whether the client may read every topic that the filter matches; see [broker.Coverer].
func (a *ACL) CoversRead(c *broker.ClientInfo, filter string) bool {
	s := subjectOf(c)
	return filter != "" && coversRead(&s, filter, a.of(c.User), a.everybody)
}

func (a *ACL) neverDeniesRead(c *broker.ClientInfo, filter string) bool {
	s := subjectOf(c)
	return filter != "" && neverDeniesRead(&s, filter, a.of(c.User), a.everybody)
}

// Explain says whether a client may do something, on which line that stands (zero if on none), and why in words. An
// empty user means an anonymous client.
func (a *ACL) Explain(client, user string, act broker.Action, topic string) (allowed bool, line int, why string) {
	s := newSubject(client, user)
	v := decide(&s, act, topic, a.of(user), a.everybody)
	if v.rule == nil {
		return false, 0, fmt.Sprintf("no: %s: %s", a.path, v.why)
	}
	word := "no"
	if v.allowed {
		word = "yes"
	}
	return v.allowed, v.rule.line, fmt.Sprintf("%s: %s:%d %q %s", word, a.path, v.rule.line, v.rule.filter, v.why)
}

// Users returns the users that the list names, sorted.
func (a *ACL) Users() []string {
	var names []string
	for name := range a.users {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ACLFile is an [ACL] that can be read again, a [Reloader]. When the file changes its owner calls the broker's
// Reauthorize, see [Watcher].
type ACLFile struct {
	*source[*ACL]
}

// OpenACL reads an access control list. With an error it denies everything until it is read again and good.
func OpenACL(path string) (*ACLFile, error) {
	src, err := openSource(path, ParseACL)
	return &ACLFile{src}, err
}

// Authorize decides by what is in force; see [ACL].
func (f *ACLFile) Authorize(c *broker.ClientInfo, act broker.Action, topic string) error {
	a, err := f.value()
	if err != nil {
		return mqtt.NotAuthorized // not ErrNoOpinion: a broken list must not leave the decision to others
	}
	return a.Authorize(c, act, topic)
}

// DecidesAtOnce is true: nobody else is asked; see [broker.Prompt].
func (*ACLFile) DecidesAtOnce() bool { return true }

// CoversRead reports whether the client may read every topic that the filter matches; see [broker.Coverer].
func (f *ACLFile) CoversRead(c *broker.ClientInfo, filter string) bool {
	a, err := f.value()
	return err == nil && a.CoversRead(c, filter)
}

func (f *ACLFile) neverDeniesRead(c *broker.ClientInfo, filter string) bool {
	a, err := f.value()
	return err == nil && a.neverDeniesRead(c, filter)
}

// Explain explains by what is in force; see [ACL.Explain].
func (f *ACLFile) Explain(client, user string, act broker.Action, topic string) (allowed bool, line int, why string) {
	a, err := f.value()
	if err != nil {
		return false, 0, "no: " + err.Error()
	}
	return a.Explain(client, user, act, topic)
}
