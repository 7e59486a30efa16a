package conformance

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Statement is a normative statement of a specification, such as 5.0's
// MQTT-3.3.1-4.
type Statement struct {
	Version Version // V311 or V5
	ID      string
}

var citation = regexp.MustCompile(`\[(v3\.1\.1 |v5 )?(MQTT-[0-9]+\.[0-9]+\.[0-9]+-[0-9]+)\]`)

// citations takes the statements named in text, those without a version
// counting as home's, and returns what is left of the text. The statements of
// 3.1 are those of 3.1.1, for it has none of its own.
func citations(text string, home Version) (found []Statement, rest string) {
	for _, m := range citation.FindAllStringSubmatch(text, -1) {
		s := Statement{Version: home, ID: m[2]}
		switch {
		case m[1] == "v5 ":
			s.Version = V5
		case m[1] != "" || home == V31:
			s.Version = V311
		}
		found = append(found, s)
	}
	rest = citation.ReplaceAllString(text, "")
	return found, strings.Join(strings.Fields(rest), " ")
}

// Rule is one line of a list of statements: what it demands, of whom, and why
// no test covers it, if none does.
type Rule struct {
	Statement
	Role    string // server, client or both
	Summary string
	Reason  string // empty where a test must cover it
}

// LoadRules reads a list of statements: four columns separated by tabs, id,
// role, summary, reason; lines that start with # are remarks.
func LoadRules(path string, v Version) ([]Rule, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var rules []Rule
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if line := lines.Text(); line != "" && line[0] != '#' {
			rule, err := parseRule(line, v)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, n, err)
			}
			rules = append(rules, rule)
		}
	}
	return rules, lines.Err()
}

func parseRule(line string, v Version) (Rule, error) {
	columns := strings.Split(line, "\t")
	if len(columns) != 4 {
		return Rule{}, fmt.Errorf("%d columns instead of 4", len(columns))
	}
	r := Rule{Statement: Statement{v, columns[0]}, Role: columns[1], Summary: columns[2], Reason: columns[3]}
	if !citation.MatchString("[" + r.ID + "]") {
		return r, fmt.Errorf("%q is not the id of a statement", r.ID)
	}
	if r.Role != "server" && r.Role != "client" && r.Role != "both" {
		return r, fmt.Errorf("role %q is none of server, client, both", r.Role)
	}
	if r.Summary == "" {
		return r, fmt.Errorf("%s has no summary", r.ID)
	}
	return r, nil
}
