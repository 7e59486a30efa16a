package mosquitto

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/magpiemq/magpie/auth"
)

// Passwords returns what of a password file can be used as it is, and how many users that are. File is for notes.
func Passwords(file string, data []byte) (out []byte, users int, notes []Note) {
	seen := make(map[string]bool)
	for i, line := range split(data) {
		user, hash, _ := strings.Cut(line, ":")
		note := func(format string, args ...any) {
			notes = append(notes, Note{file, i + 1, fmt.Sprintf(format, args...)})
		}
		switch {
		case strings.TrimSpace(line) == "" || line[0] == '#':
			continue
		case seen[user]:
			note("user %q is there twice: the first one counts", user)
			continue
		case hash == "" || hash[0] != '$':
			note("user %q has no hashed password and needs a new one: magpie passwd", user)
			continue
		}
		if err := auth.CheckPasswords(file, []byte(line)); err != nil {
			note("user %q needs a new password: the hash is of no kind that is known here", user)
			continue
		}
		seen[user] = true
		users++
		out = append(append(out, line...), '\n')
	}
	return out, users, notes
}

// split returns the lines without what ends them.
func split(data []byte) []string {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	lines := strings.Split(string(data), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return lines
}

// ACL returns an access control list that grants no more than the one of Mosquitto: what cannot be understood of it grants
// nothing and is left in its place as a comment. A denial that cannot be taken over is an error. File is for notes.
func ACL(file string, data []byte) (out []byte, rules int, notes []Note, err error) {
	a := aclReader{}
	for i, line := range split(data) {
		kept, reason, err := a.line(strings.TrimSpace(line))
		if err != nil {
			return nil, 0, nil, fmt.Errorf("%s:%d: a denial that cannot be taken over: %w; write it in another way", file, i+1, err)
		}
		if reason != "" {
			notes = append(notes, Note{file, i + 1, reason})
		}
		out = append(append(out, kept...), '\n')
	}
	return append(bytes.TrimRight(out, "\n"), '\n'), a.rules, notes, nil
}

// aclReader takes over one line after the other.
type aclReader struct {
	rules int
	void  bool // the lines are for a user that cannot be
}

// line returns a line of ours for one of Mosquitto's, and how its meaning differs.
func (a *aclReader) line(line string) (kept, reason string, err error) {
	comment := "# " + strings.ToValidUTF8(line, "?")
	if line == "" {
		return "", "", nil
	} else if line[0] == '#' {
		return strings.ToValidUTF8(line, "?"), "", nil
	}
	word, rest, _ := strings.Cut(line, " ")
	if word == "user" {
		fault := understand(line + "\ntopic a")
		if a.void = fault != nil; a.void {
			return comment, fmt.Sprintf("the lines below it grant nothing: %v", fault), nil
		}
		return line, "", nil
	}
	if a.void && word == "topic" {
		return comment, "", nil
	}
	fault := understand(line)
	if fault == nil {
		a.rules++
		return line, "", nil
	}
	if !strings.HasPrefix(strings.TrimSpace(rest), "deny ") {
		return comment, fmt.Sprintf("it grants nothing: %v", fault), nil
	}
	if wider := denyMore(line); understand(wider) == nil {
		a.rules++
		return wider, "it denies more than before: + stands for levels of which a name is only a part", nil
	}
	return "", "", fault
}

// understand says what our access control lists have against a line.
func understand(line string) error {
	_, err := auth.ParseACL("acl", []byte(line))
	if err == nil {
		return nil
	}
	_, reason, _ := strings.Cut(err.Error(), ": ") // without the place, which is another one
	return errors.New(reason)
}

// denyMore makes + of the levels in which a variable is only a part.
func denyMore(line string) string {
	at := strings.LastIndexAny(line, " \t") + 1
	levels := strings.Split(line[at:], "/")
	for i, l := range levels {
		if strings.Contains(l, "%c") || strings.Contains(l, "%u") {
			levels[i] = "+"
		}
	}
	return line[:at] + strings.Join(levels, "/")
}
