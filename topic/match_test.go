package topic

import (
	"regexp"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		filter, name string
		want         bool
	}{
		// §4.7.1.2, the multi-level wildcard
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player10", false},
		{"sport/tennis/player1/#", "sport/tennis", false},
		{"sport/#", "sport", true},
		{"#", "sport", true},
		{"#", "a/b/c", true},
		{"#", "/", true},
		{"+/#", "a", true},
		{"+/#", "a/b/c", true},
		{"+/+/#", "a", false},
		{"a/+/#", "a", false},
		{"a/+/#", "a/", true},
		{"a/+/#", "a/b", true},
		// §4.7.1.3, the single-level wildcard
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+", "a", true},
		{"+", "a/b", false},
		{"+", "/finance", false},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+/tennis/#", "sport/tennis", true},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a//c", true},
		{"a/+/c", "a/b/d", false},
		{"+/+", "/", true},
		// §4.7.2, topics that begin with $
		{"#", "$SYS/uptime", false},
		{"+/uptime", "$SYS/uptime", false},
		{"+", "$SYS", false},
		{"+/#", "$SYS", false},
		{"$SYS/#", "$SYS/uptime", true},
		{"$SYS/#", "$SYS", true},
		{"$SYS/+", "$SYS/uptime", true},
		{"a/#", "a/$b", true},
		{"a/+", "a/$b", true},
		// §4.7.3, semantics
		{"ACCOUNTS", "Accounts", false},
		{"a/b", "a/b", true},
		{"a/b", "a/b/", false},
		{"a/b/", "a/b", false},
		{"/a", "a", false},
		{"a", "ab", false},
		{"ab", "a", false},
		{"a", "a", true},
		{"/", "/", true},
		{"//", "/", false},
		{"Accounts payable", "Accounts payable", true},
		{"温度/+", "温度/室内", true},
		{"\u00e9", "e\u0301", false}, // no normalization [MQTT-4.7.3-4]
		{"#", "", false},
		{"", "a", false},
		{"", "", false},
	} {
		if got := Match(c.filter, c.name); got != c.want {
			t.Errorf("filter %q, name %q: got %v, want %v", c.filter, c.name, got, c.want)
		}
	}
}

// viaRegexp is a second opinion on the oracle: it translates the filter.
func viaRegexp(filter, name string) bool {
	if strings.HasPrefix(name, "$") && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	expr := strings.ReplaceAll(regexp.QuoteMeta(filter), `\+`, `[^/]*`)
	switch below, ok := strings.CutSuffix(expr, "/#"); {
	case ok:
		expr = below + "(/.*)?"
	case expr == "#":
		expr = ".*"
	}
	return regexp.MustCompile(`(?s)\A` + expr + `\z`).MatchString(name)
}

func TestMatchAgainstRegexp(t *testing.T) {
	matched := 0
	for seed := range uint64(3000) {
		g := newGen(seed)
		filter, name := g.filter(), g.name()
		want := viaRegexp(filter, name)
		if got := Match(filter, name); got != want {
			t.Fatalf("seed %d: filter %q, name %q: got %v, want %v", seed, filter, name, got, want)
		}
		if want {
			matched++
		}
	}
	if matched < 300 {
		t.Errorf("only %d random pairs match: the test has lost its teeth", matched)
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		general, specific string
		want              bool
	}{
		{"#", "#", true},
		{"#", "+", true},
		{"#", "a/b", true},
		{"#", "+/#", true},
		{"+/#", "#", true},
		{"+/#", "a", true},
		{"+/+/#", "#", false},
		{"+/+/#", "+/#", false},
		{"+/+", "#", false},
		{"+", "#", false},
		{"a/#", "a", true},
		{"a/#", "a/#", true},
		{"a/#", "a/+/#", true},
		{"a/#", "a/+/c", true},
		{"a/#", "+/b", false},
		{"a/#", "#", false},
		{"a/+/#", "a/#", false},
		{"a/+/#", "a/+", true},
		{"a/+", "a/#", false},
		{"a/+", "a/+", true},
		{"a/+", "a/b", true},
		{"a/+", "a/b/c", false},
		{"a/+", "a", false},
		{"a/b", "a/+", false},
		{"a/b", "a/b", true},
		{"a/b", "a/c", false},
		{"+/b", "a/b", true},
		{"#", "$SYS/#", false},
		{"+/a", "$SYS/a", false},
		{"$SYS/#", "$SYS/a", true},
		{"$SYS/#", "#", false},
		{"$SYS/#", "+/a", false},
		{"a/+", "a/$b", true},
	} {
		if got := Covers(c.general, c.specific); got != c.want {
			t.Errorf("%q covers %q: got %v, want %v", c.general, c.specific, got, c.want)
		}
	}
}

// coversEvery asks Match about every name of up to 4 levels, of which one level occurs in no filter.
func coversEvery(names []string, general, specific string) bool {
	for _, name := range names {
		if Match(specific, name) && !Match(general, name) {
			return false
		}
	}
	return true
}

func allNames(levels []string, depth int) (names []string) {
	last := []string{""}
	for d := range depth {
		var next []string
		for _, above := range last {
			for _, level := range levels {
				if d > 0 {
					level = above + "/" + level
				}
				next = append(next, level)
			}
		}
		names, last = append(names, next...), next
	}
	return names
}

func TestCoversAgainstEveryName(t *testing.T) {
	levels := []string{"a", "b", "$a"}
	names := allNames(append(levels, "other"), 4)
	covered := 0
	for seed := range uint64(5000) {
		g := newGen(seed)
		g.levels, g.depth = levels, 3
		general, specific := g.filter(), g.filter()
		want := coversEvery(names, general, specific)
		if got := Covers(general, specific); got != want {
			t.Fatalf("seed %d: %q covers %q: got %v, want %v", seed, general, specific, got, want)
		}
		if want {
			covered++
		}
	}
	if covered < 300 {
		t.Errorf("only %d random pairs cover: the test has lost its teeth", covered)
	}
}
