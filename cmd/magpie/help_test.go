package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestHelpHasExamples: the help of every command has examples, and each is a command line of magpie that can be parsed.
func TestHelpHasExamples(t *testing.T) {
	leaves := model(t).Leaves(false)
	if len(leaves) == 0 {
		t.Fatal("no commands")
	}
	for _, leaf := range leaves {
		name := strings.TrimPrefix(leaf.FullPath(), "magpie ")
		lines := commandLines(leaf)
		if len(lines) == 0 {
			t.Errorf("magpie %s: its help has no examples: give it a method Help that returns examples(…)", name)
		}
		for _, line := range lines {
			parseExample(t, name, line)
		}
	}
}

// commandLines returns the lines of a command's help that are examples, but for their comments.
func commandLines(n *kong.Node) (lines []string) {
	_, after, _ := strings.Cut(n.Detail, "Examples:\n\n")
	for line := range strings.Lines(after) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "  #") {
			lines = append(lines, line[2:])
		}
	}
	return lines
}

// parseExample parses what stands behind magpie in an example, up to a pipe or a parenthesis.
func parseExample(t *testing.T, name, line string) {
	t.Helper()
	at := strings.Index(line, "magpie ")
	if at < 0 {
		t.Errorf("magpie %s: the example %q is not one of magpie", name, line)
		return
	}
	line = regexp.MustCompile(`\$\([^)]*\)`).ReplaceAllString(line, "1") // what another program says
	words := shellWords(regexp.MustCompile(`\)| \| `).Split(line[at:], 2)[0])
	parser, err := newParser(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := parser.Parse(words)
	if err != nil {
		t.Errorf("magpie %s: the example %q: %v", name, line, err)
		return
	}
	if got := strings.TrimPrefix(ctx.Selected().FullPath(), "magpie "); got != name {
		t.Errorf("magpie %s: the example %q is one of %s", name, line, got)
	}
}

// TestHelpIsWhole: each command, argument and flag says what it is for.
func TestHelpIsWhole(t *testing.T) {
	for _, leaf := range model(t).Leaves(false) {
		for _, arg := range leaf.Positional {
			if arg.Help == "" {
				t.Errorf("%s: the argument %s has no help", leaf.FullPath(), arg.Name)
			}
		}
		for _, group := range leaf.AllFlags(true) {
			for _, f := range group {
				if f.Help == "" {
					t.Errorf("%s: the flag --%s has no help", leaf.FullPath(), f.Name)
				}
			}
		}
		if leaf.Help == "" {
			t.Errorf("%s has no help", leaf.FullPath())
		}
	}
}

// TestFlagsAreDocumented: docs/commands.md has every flag of pub, sub and req.
func TestFlagsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range model(t).Leaves(true) {
		if !slices.Contains([]string{"magpie pub", "magpie sub", "magpie req"}, leaf.FullPath()) {
			continue
		}
		for _, f := range leaf.Flags {
			known := regexp.MustCompile("`(-" + string(f.Short) + "|--(\\[no-\\])?" + f.Name + ")[ `]")
			if f.Short == 0 {
				known = regexp.MustCompile("`--(\\[no-\\])?" + f.Name + "[ `]")
			}
			if !known.Match(doc) {
				t.Errorf("docs/commands.md does not have --%s of %s", f.Name, leaf.Name)
			}
		}
	}
}
