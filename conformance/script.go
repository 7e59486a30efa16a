package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Version is a protocol version by the level that stands in CONNECT.
type Version int

// The three versions of MQTT.
const (
	V31  Version = 3
	V311 Version = 4
	V5   Version = 5
)

var versions = map[string]Version{"v31": V31, "v311": V311, "v5": V5}

// String returns the word that scripts use.
func (v Version) String() string {
	for word, version := range versions {
		if v == version {
			return word
		}
	}
	return fmt.Sprintf("level %d", int(v))
}

// Case is one test: a title, the statements it covers, and steps.
type Case struct {
	Title      string
	File       string // as it was opened
	Line       int    // of the title
	Statements []Statement
	Versions   []Version         // to run it in
	Only       string            // "tcp" or "ws"; empty means both
	With       map[string]string // settings of the broker; empty means the default
	Alone      bool              // each run needs a broker of its own
	Steps      []Step
	restricted bool // a step of the kind only, with or alone was read
}

// Step is one line of a case.
type Step struct {
	Line    int
	Text    string
	Peers   []string  // names of the connections; "" is the unnamed one
	Verb    string    // one of verbs, or ">", "<", "<?"
	Version Version   // zero means that of the run
	When    []Version // the versions in which it is done; empty means all
	Words   []string
}

// verbs lists the steps that are not packets.
var verbs = []string{"connect", "open", "close", "split", "wait", "protocol", "refused"}

// ParseFile reads a script. The name of its directory says the versions.
func ParseFile(path string) ([]*Case, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	run, home := []Version{V31, V311, V5}, V5
	if v, ok := versions[filepath.Base(filepath.Dir(path))]; ok {
		run, home = []Version{v}, v
	}
	p := parser{file: path, run: run, home: home}
	for i, line := range strings.Split(string(text), "\n") {
		if err := p.line(i+1, strings.TrimSpace(line)); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
	}
	return p.cases, nil
}

// parser collects cases line by line.
type parser struct {
	file  string
	run   []Version
	home  Version // what a statement without version means
	cases []*Case
}

func (p *parser) line(n int, line string) error {
	switch {
	case line == "" || strings.HasPrefix(line, "//"):
		return nil
	case strings.HasPrefix(line, "#"):
		return p.title(n, strings.TrimSpace(strings.TrimLeft(line, "#")))
	case len(p.cases) == 0:
		return fmt.Errorf("step before the first title")
	}
	words, err := splitWords(line)
	if err != nil {
		return err
	}
	return p.step(p.cases[len(p.cases)-1], n, line, words)
}

// title starts a case, or goes on with the title of one without steps.
func (p *parser) title(n int, text string) error {
	statements, rest := citations(text, p.home)
	if k := len(p.cases); k > 0 && len(p.cases[k-1].Steps) == 0 && !p.cases[k-1].restricted {
		c := p.cases[k-1]
		c.Title = strings.TrimSpace(c.Title + " " + rest)
		c.Statements = append(c.Statements, statements...)
		return nil
	}
	c := &Case{Title: rest, File: p.file, Line: n, Statements: statements, Versions: p.run}
	p.cases = append(p.cases, c)
	return nil
}

func (p *parser) step(c *Case, n int, line string, words []string) error {
	c.restricted = true
	switch words[0] {
	case "only":
		return c.only(words[1:])
	case "with":
		return c.with(words[1:])
	case "alone":
		c.Alone = true
		return nil
	}
	when, words, err := condition(words)
	if err != nil {
		return err
	}
	s, err := parseStep(words)
	if err != nil {
		return err
	}
	s.Line, s.Text, s.When = n, line, when
	c.Steps = append(c.Steps, s)
	return s.check(p.run[len(p.run)-1])
}

// only restricts a case to a transport, or to versions.
func (c *Case) only(words []string) error {
	var run []Version
	for _, w := range words {
		switch {
		case w == "tcp" || w == "ws":
			c.Only = w
		case versions[w] != 0:
			run = append(run, versions[w])
		default:
			return fmt.Errorf("only takes tcp, ws or versions, not %s", w)
		}
	}
	if len(run) > 0 {
		c.Versions = run
	}
	return nil
}

func (c *Case) with(words []string) error {
	if c.With == nil {
		c.With = map[string]string{}
	}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return fmt.Errorf("setting %s has no value", w)
		}
		c.With[name] = value
	}
	return nil
}

// condition takes "v5:" or "v31|v311:" off a line.
func condition(words []string) (when []Version, rest []string, err error) {
	list, ok := strings.CutSuffix(words[0], ":")
	if !ok {
		return nil, words, nil
	}
	for name := range strings.SplitSeq(list, "|") {
		if versions[name] == 0 {
			return nil, nil, fmt.Errorf("%s is not a version", name)
		}
		when = append(when, versions[name])
	}
	if len(words) == 1 {
		return nil, nil, fmt.Errorf("no step after %s", words[0])
	}
	return when, words[1:], nil
}

// parseStep takes the name, the version and the verb off a line.
func parseStep(words []string) (Step, error) {
	for _, arrow := range []string{">", "<?", "<"} {
		if names, ok := strings.CutSuffix(words[0], arrow); ok {
			return Step{Peers: strings.Split(names, "|"), Verb: arrow, Words: words[1:]}, nil
		}
	}
	s := Step{Peers: []string{""}}
	if versions[words[0]] == 0 && !slices.Contains(verbs, words[0]) {
		s.Peers[0], words = words[0], words[1:]
	}
	if len(words) > 0 && versions[words[0]] != 0 {
		s.Version, words = versions[words[0]], words[1:]
	}
	if len(words) == 0 || !slices.Contains(verbs, words[0]) {
		return s, fmt.Errorf("no such step")
	}
	s.Verb, s.Words = words[0], words[1:]
	return s, nil
}

// check tries what can be tried without a broker, so that a slip in a script
// is found when it is read.
func (s *Step) check(v Version) error {
	if s.Version != 0 {
		v = s.Version
	}
	vars := map[string]string{"id": "xxxxxx"}
	words := bindAll(s.Words)
	var err error
	switch s.Verb {
	case "wait":
		_, err = s.duration()
	case "connect":
		_, _, words = connectWords(words)
		_, err = encodePacket(v, "CONNECT", words, vars)
	case ">":
		_, err = encodeWords(v, words, vars)
	case "<", "<?":
		_, err = parseExpectation(words, vars)
	}
	return err
}

var unbound = regexp.MustCompile(`^([a-z-]+="?|)\$[a-z][a-zA-Z0-9]*("?)$`)

// bindAll puts a number wherever a packet would have one that is only known
// when the case runs.
func bindAll(words []string) []string {
	bound := slices.Clone(words)
	for i, w := range bound {
		if m := unbound.FindStringSubmatch(w); m != nil && !strings.Contains(w, "$id") {
			bound[i] = m[1] + "0001" + m[2]
		}
	}
	return bound
}

// connectWords tells the words of a connect step that are about the CONNACK
// from those of the CONNECT, and whether these name a Client Identifier.
func connectWords(words []string) (named bool, accepted, sent []string) {
	for _, w := range words {
		if strings.HasPrefix(w, "sp=") || strings.HasPrefix(w, "!") {
			accepted = append(accepted, w)
			continue
		}
		named = named || strings.HasPrefix(w, "id=")
		sent = append(sent, w)
	}
	return named, accepted, sent
}

func (s *Step) duration() (time.Duration, error) {
	if len(s.Words) != 1 {
		return 0, fmt.Errorf("wait takes one duration")
	}
	return time.ParseDuration(s.Words[0])
}

// splitWords splits a line at spaces that are not inside quotes.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	flush := func() {
		if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		case quote == 0 && (r == ' ' || r == '\t'):
			flush()
			continue
		}
		word.WriteRune(r)
	}
	flush()
	if quote != 0 {
		return nil, fmt.Errorf("quote %c is not closed", quote)
	}
	return words, nil
}
