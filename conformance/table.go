package conformance

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Evidence is one thing that covers statements.
type Evidence struct {
	Kind       string // "script", "watch" or "unit"; "code" only cites
	Where      string // file, from the root of the repository, with / as separator
	What       string // title of the case
	Line       int
	Statements []Statement
}

// Survey is all that is known: the rules and what covers them.
type Survey struct {
	Rules    []Rule
	Evidence []Evidence
}

// NewSurvey reads the lists, the scripts, watch.go and the citations in every
// Go file below root, the root of the repository.
func NewSurvey(root string) (*Survey, error) {
	var s Survey
	dir := filepath.Join(root, "conformance")
	for _, list := range []struct {
		file    string
		version Version
	}{{"statements_v311.tsv", V311}, {"statements_v5.tsv", V5}} {
		rules, err := LoadRules(filepath.Join(dir, list.file), list.version)
		if err != nil {
			return nil, err
		}
		s.Rules = append(s.Rules, rules...)
	}
	cases, err := Load(filepath.Join(dir, "testdata"))
	if err != nil {
		return nil, err
	}
	for _, c := range cases {
		where, err := filepath.Rel(root, c.File)
		if err != nil {
			return nil, err
		}
		s.Evidence = append(s.Evidence, Evidence{"script", filepath.ToSlash(where), c.Title, c.Line, c.Statements})
	}
	return &s, s.addSources(root)
}

// Load reads all scripts below dir, sorted by name.
func Load(dir string) ([]*Case, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.txt"))
	if err != nil {
		return nil, err
	}
	var all []*Case
	for _, file := range files {
		cases, err := ParseFile(file)
		if err != nil {
			return nil, err
		}
		all = append(all, cases...)
	}
	return all, nil
}

// addSources adds what is cited in Go tests, in watch.go, and in other code.
func (s *Survey) addSources(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		where, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		where = filepath.ToSlash(where)
		switch {
		case where == "conformance/watch.go" || where == "conformance/decode.go":
			return s.addSource("watch", where, path)
		case strings.HasSuffix(where, "_test.go") && !strings.HasPrefix(where, "conformance/"):
			return s.addSource("unit", where, path)
		case strings.HasSuffix(where, ".go") && !strings.HasPrefix(where, "conformance/"):
			return s.addSource("code", where, path)
		}
		return nil
	})
}

// function finds the names of tests, to tell which one cites a statement.
var function = regexp.MustCompile(`(?m)^func (?:\([^)]*\) )?(\w+)`)

// addSource adds one Evidence for each function of a Go file that cites a
// statement, in it or in the comment above it.
func (s *Survey) addSource(kind, where, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, part := range splitFunctions(string(text)) {
		statements, _ := citations(part.text, V5)
		if len(statements) > 0 {
			s.Evidence = append(s.Evidence, Evidence{kind, where, part.name, 0, unique(statements)})
		}
	}
	return nil
}

type part struct{ name, text string }

// splitFunctions cuts a Go file before the comment of each function; what
// stands before the first belongs to the file.
func splitFunctions(text string) []part {
	parts := []part{{}}
	comment := ""
	for line := range strings.Lines(text) {
		last := &parts[len(parts)-1]
		switch m := function.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "//"):
			comment += line
			continue
		case m != nil:
			parts = append(parts, part{m[1], comment + line})
		default:
			last.text += comment + line
		}
		comment = ""
	}
	return parts
}

func unique(statements []Statement) []Statement {
	slices.SortFunc(statements, func(a, b Statement) int { return strings.Compare(a.key(), b.key()) })
	return slices.Compact(statements)
}

func (s Statement) key() string { return s.Version.String() + " " + s.ID }

// String is how a test cites the statement.
func (s Statement) String() string {
	if s.Version == V5 {
		return "[" + s.ID + "]"
	}
	return "[v3.1.1 " + s.ID + "]"
}

// Problems lists what is wrong: citations of statements that do not exist, and
// statements with neither test nor reason.
func (s *Survey) Problems() []string {
	known := map[Statement]bool{}
	var problems []string
	for _, r := range s.Rules {
		if known[r.Statement] {
			problems = append(problems, fmt.Sprintf("%s is listed twice", r.Statement))
		}
		known[r.Statement] = true
	}
	for _, e := range s.Evidence {
		for _, id := range e.Statements {
			if !known[id] {
				problems = append(problems, fmt.Sprintf("%s: %s: there is no statement %s", e.Where, e.What, id))
			}
		}
	}
	covered := s.covered()
	for _, r := range s.Rules {
		if len(covered[r.Statement]) == 0 && r.Reason == "" {
			problems = append(problems, fmt.Sprintf("%s has neither a test nor a reason: %s", r.Statement, r.Summary))
		}
	}
	return problems
}

// covered turns the evidence around.
func (s *Survey) covered() map[Statement][]Evidence {
	covered := map[Statement][]Evidence{}
	for _, e := range s.Evidence {
		if e.Kind == "code" {
			continue
		}
		for _, id := range unique(slices.Clone(e.Statements)) {
			covered[id] = append(covered[id], e)
		}
	}
	return covered
}

// Markdown renders docs/conformance.md.
func (s *Survey) Markdown() []byte {
	var b strings.Builder
	b.WriteString(preamble)
	covered := s.covered()
	for _, v := range []Version{V5, V311} {
		s.section(&b, v, covered)
	}
	return []byte(b.String())
}

const preamble = `# Conformance

Generated by ` + "`go run ./conformance/cmd/table`" + `; do not edit.

Every normative statement of the OASIS standards MQTT 5.0 (7 March 2019) and MQTT 3.1.1 (29 October 2014), by the
number it has in their Appendix B, in our words, and what covers it here:

- a **script** in ` + "`conformance/testdata`" + `, run against the broker over TCP and over WebSocket;
- **every script**: the rule is held against each packet that the broker sends in any of them
  (` + "`conformance/watch.go`, `conformance/decode.go`" + `);
- a **unit test** that cites the statement;
- or the reason why no test of a server can.

The scripts are meant to be read beside the specification; ` + "`conformance/doc.go`" + ` says how.
To try another broker: ` + "`MAGPIE_CONFORMANCE_ADDR=host:port go test ./conformance/`" + ` (and
` + "`MAGPIE_CONFORMANCE_WS=ws://host:port/mqtt`" + `).
`

var headings = map[Version]string{V5: "MQTT 5.0", V311: "MQTT 3.1.1"}

func (s *Survey) section(b *strings.Builder, v Version, covered map[Statement][]Evidence) {
	var rows strings.Builder
	total, tested := 0, 0
	for _, r := range s.Rules {
		if r.Version != v {
			continue
		}
		total++
		if len(covered[r.Statement]) > 0 {
			tested++
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s |\n", r.ID, r.Role, escape(r.Summary), cell(r, covered[r.Statement]))
	}
	fmt.Fprintf(b, "\n## %s\n\n%d statements; %d are covered by tests, %d cannot be.\n\n", headings[v], total, tested, total-tested)
	b.WriteString("| Statement | Role | What it demands | Covered by |\n|---|---|---|---|\n" + rows.String())
}

// cell shows at most three pieces of evidence, scripts before others.
func cell(r Rule, evidence []Evidence) string {
	if len(evidence) == 0 {
		return "*" + escape(r.Reason) + "*"
	}
	var lines []string
	for _, e := range evidence {
		if line := show(e); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	const most = 3
	if len(lines) > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more", len(lines)-most))
	}
	return strings.Join(lines, "<br>")
}

func show(e Evidence) string {
	switch e.Kind {
	case "script":
		name := strings.TrimPrefix(e.Where, "conformance/testdata/")
		return fmt.Sprintf("[%s](../%s): %s", name, e.Where, escape(e.What))
	case "watch":
		return "every script"
	}
	return fmt.Sprintf("unit: [%s](../%s) %s", e.Where, e.Where, e.What)
}

func escape(s string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", ">", "&gt;", "*", "\\*", "_", "\\_", "$", "\\$").Replace(s)
}
