package conformance

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// parse writes text as a script of that directory and reads it.
func parse(t *testing.T, dir, text string) ([]*Case, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), dir, "x.txt")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return ParseFile(path)
}

func TestParse(t *testing.T) {
	cases, err := parse(t, "v311", `
// remark
# first [MQTT-3.3.1-4]
# title [v5 MQTT-4.7.0-1]
only ws
with receive-max=2
sub v5 connect clean=0 sp=1
v5|v31: a|b<? PUBLISH topic="a b"

# second
> C000
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) != 2 || cases[1].Title != "second" {
		t.Fatalf("got %d cases", len(cases))
	}
	c := cases[0]
	if c.Title != "first title" || c.Only != "ws" || c.With["receive-max"] != "2" || c.Line != 3 {
		t.Errorf("case is %+v", c)
	}
	if want := []Statement{{V311, "MQTT-3.3.1-4"}, {V5, "MQTT-4.7.0-1"}}; !slices.Equal(c.Statements, want) {
		t.Errorf("statements are %v", c.Statements)
	}
	want := []Step{
		{Line: 7, Text: "sub v5 connect clean=0 sp=1", Peers: []string{"sub"}, Verb: "connect", Version: V5, Words: []string{"clean=0", "sp=1"}},
		{Line: 8, Text: `v5|v31: a|b<? PUBLISH topic="a b"`, Peers: []string{"a", "b"}, Verb: "<?", When: []Version{V5, V31},
			Words: []string{"PUBLISH", `topic="a b"`}},
	}
	if !reflect.DeepEqual(c.Steps, want) {
		t.Errorf("steps are %+v", c.Steps)
	}
	if got := len(c.stepsIn(V311)); got != 1 {
		t.Errorf("%d steps in v311", got)
	}
}

// TestParseErrors: a slip in a script is found when it is read.
func TestParseErrors(t *testing.T) {
	for _, text := range []string{
		"connect",
		"# t\nnonsense",
		"# t\nsub",
		"# t\nonly quic",
		"# t\nwith colour",
		"# t\nv6: connect",
		"# t\nv5:",
		"# t\nwait",
		"# t\nwait soon",
		"# t\n>",
		"# t\n<",
		"# t\n> PUBLISH topic=\"a",
		"# t\n> PUBLISH colour=red",
		"# t\n> PUBLISH 0G",
		"# t\n> PUBACK id=70000",
		"# t\n> SUBSCRIBE id=1 qos=1",
		"# t\n> SUBSCRIBE id=1 filter=a qos=x",
		"# t\n> 3G",
		"# t\n> 30 {",
		"# t\n> 30 }",
		"# t\n> abc*2",
		"# t\n> 'a'*x",
		"# t\nconnect receive-max=many",
		"# t\n< PUBLISH colour=red",
		"# t\n< DISCONNECT 8",
		"# t\n< DISCONNECT 81|x",
		"# t\n< PUBLISH !colour",
		"# t\n< 30 ??",
		"# t\n< 30 { ..",
		"# t\n< PUBLISH payload=hex:0",
	} {
		if _, err := parse(t, "v5", text); err == nil || !strings.Contains(err.Error(), "x.txt:") {
			t.Errorf("%q: error is %v", text, err)
		}
	}
}

func TestCitations(t *testing.T) {
	for _, c := range []struct {
		text string
		home Version
		want []Statement
		rest string
	}{
		{"a [MQTT-3.3.1-4] b", V5, []Statement{{V5, "MQTT-3.3.1-4"}}, "a b"},
		{"[v3.1.1 MQTT-3.3.1-4]", V5, []Statement{{V311, "MQTT-3.3.1-4"}}, ""},
		{"[MQTT-3.3.1-4]", V31, []Statement{{V311, "MQTT-3.3.1-4"}}, ""},
		{"[v5 MQTT-3.3.1-4]", V31, []Statement{{V5, "MQTT-3.3.1-4"}}, ""},
		{"MQTT-3.3.1-4 [MQTT-3.3-4] [§3.3.1]", V5, nil, "MQTT-3.3.1-4 [MQTT-3.3-4] [§3.3.1]"},
	} {
		got, rest := citations(c.text, c.home)
		if !slices.Equal(got, c.want) || rest != c.rest {
			t.Errorf("%q: got %v and %q", c.text, got, rest)
		}
	}
}

func TestSplitFunctions(t *testing.T) {
	parts := splitFunctions(`package p

var a = 1 // [MQTT-1.1.1-1]

// TestA tries [MQTT-1.1.1-2].
func TestA(t *testing.T) {
	// [MQTT-1.1.1-3]
}

// b is data.
var b = "[MQTT-1.1.1-4]"

func (x X) method() {}
`)
	got := map[string]int{}
	for _, p := range parts {
		found, _ := citations(p.text, V5)
		got[p.name] = len(found)
	}
	if want := map[string]int{"": 1, "TestA": 3, "method": 0}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestProblems(t *testing.T) {
	s := Survey{
		Rules: []Rule{
			{Statement{V5, "MQTT-1.1.1-1"}, "server", "covered", ""},
			{Statement{V5, "MQTT-1.1.1-2"}, "server", "neither", ""},
			{Statement{V5, "MQTT-1.1.1-3"}, "client", "excused", "rule for the client"},
			{Statement{V5, "MQTT-1.1.1-3"}, "client", "twice", "rule for the client"},
			{Statement{V5, "MQTT-1.1.1-4"}, "server", "cited by code only", ""},
		},
		Evidence: []Evidence{
			{"script", "conformance/testdata/v5/x.txt", "a | title", 1, []Statement{{V5, "MQTT-1.1.1-1"}, {V311, "MQTT-1.1.1-1"}}},
			{"code", "broker/x.go", "f", 0, []Statement{{V5, "MQTT-1.1.1-4"}}},
		},
	}
	problems := strings.Join(s.Problems(), "\n")
	for _, want := range []string{"there is no statement [v3.1.1 MQTT-1.1.1-1]", "[MQTT-1.1.1-2] has neither", "[MQTT-1.1.1-3] is listed twice",
		"[MQTT-1.1.1-4] has neither"} {
		if !strings.Contains(problems, want) {
			t.Errorf("%q is missing in\n%s", want, problems)
		}
	}
	if n := len(s.Problems()); n != 4 {
		t.Errorf("%d problems:\n%s", n, problems)
	}
	page := string(s.Markdown())
	for _, want := range []string{`[v5/x.txt](../conformance/testdata/v5/x.txt): a \| title`, "*rule for the client*", "5 statements; 1 are covered"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing in\n%s", want, page)
		}
	}
}

func TestParseRule(t *testing.T) {
	for _, line := range []string{"MQTT-1.1.1-1\tserver\tx", "MQTT-1.1-1\tserver\tx\t", "MQTT-1.1.1-1\tnobody\tx\t", "MQTT-1.1.1-1\tserver\t\t"} {
		if r, err := parseRule(line, V5); err == nil {
			t.Errorf("%q: got %+v", line, r)
		}
	}
}
