package auth

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

const testACL = `# who may do what
topic read news/#

user anna
topic readwrite home/anna/#
topic deny home/anna/safe/#
topic free
topic write  inbox/+
topic subscribe lab/+/results
topic read lab/#
topic read read

user bob the builder
topic write with space/x

anonymous
topic write guestbook
topic read $SYS/broker/uptime

user anna
topic write late

pattern write devices/%c/up
pattern read devices/%c/down
pattern readwrite users/%u/#
pattern deny users/%u/private
`

func parseACL(t testing.TB, text string) *ACL {
	t.Helper()
	a, err := ParseACL("acl.txt", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const (
	r = broker.Read
	w = broker.Write
	s = broker.Subscribe
)

var aclTests = []struct {
	client, user string
	action       broker.Action
	topic        string
	want         string // yes, no (a line says so), or none
	line         int
}{
	{"c", "", r, "news/today", "yes", 2},
	{"c", "", r, "news", "yes", 2},
	{"c", "", w, "news/today", "none", 0},
	{"c", "", w, "guestbook", "yes", 17},
	{"c", "anna", w, "guestbook", "none", 0}, // lines for anonymous clients are not for users
	{"c", "anna", r, "news/today", "none", 0},
	{"c", "anna", r, "home/anna/light", "yes", 5},
	{"c", "anna", w, "home/anna/light", "yes", 5},
	{"c", "anna", w, "home/anna/safe/door", "no", 6},
	{"c", "anna", r, "home/anna/safe", "no", 6},
	{"c", "anna", s, "home/anna/safe/#", "no", 6},
	{"c", "anna", s, "home/anna/safe/+", "no", 6},
	{"c", "anna", s, "home/#", "yes", 5}, // a part of it is readable; deliveries are checked
	{"c", "anna", s, "home/anna/#", "yes", 5},
	{"c", "anna", s, "home/bob/#", "none", 0},
	{"c", "anna", w, "free", "yes", 7},
	{"c", "anna", r, "free", "yes", 7},
	{"c", "anna", w, "inbox/bob", "yes", 8},
	{"c", "anna", r, "inbox/bob", "none", 0},
	{"c", "anna", s, "inbox/bob", "none", 0}, // writing is not reading
	{"c", "anna", w, "inbox/bob/x", "none", 0},
	{"c", "anna", s, "lab/1/results", "yes", 9},
	{"c", "anna", s, "lab/+/results", "yes", 9},
	{"c", "anna", s, "lab/#", "no", 9}, // a subscribe line speaks about a part of it
	{"c", "anna", s, "lab/1/raw", "yes", 10},
	{"c", "anna", r, "lab/1/raw", "yes", 10},
	{"c", "anna", w, "read", "none", 0},
	{"c", "anna", r, "read", "yes", 11},
	{"c", "anna", w, "late", "yes", 21},
	{"c", "bob the builder", w, "with space/x", "yes", 14},
	{"c", "bob", w, "with space/x", "none", 0},
	{"c", "nobody", w, "free", "none", 0},
	{"c", "", r, "$SYS/broker/uptime", "yes", 18},
	{"c", "", s, "$SYS/#", "yes", 18},
	{"c", "", s, "#", "yes", 2},
	{"d7", "", w, "devices/d7/up", "yes", 23},
	{"d7", "anna", w, "devices/d7/up", "yes", 23},
	{"d7", "anna", r, "devices/d7/up", "none", 0},
	{"d7", "anna", r, "devices/d7/down", "yes", 24},
	{"d7", "anna", s, "devices/+/down", "yes", 24},
	{"d7", "anna", w, "devices/d8/up", "none", 0},
	{"d7", "anna", w, "users/anna/x/y", "yes", 25},
	{"d7", "anna", w, "users/anna/private", "no", 26},
	{"d7", "anna", w, "users/bob/x", "none", 0},
	{"d7", "", w, "users//x", "none", 0},
	{"d7", "anna", w, "", "none", 0},
	{"d7", "anna", s, "", "none", 0},
	{"d7", "anna", broker.Action(9), "free", "none", 0},
}

func TestACL(t *testing.T) {
	a := parseACL(t, testACL)
	for _, test := range aclTests {
		got := map[error]string{nil: "yes", mqtt.NotAuthorized: "no", broker.ErrNoOpinion: "none"}[a.Authorize(client(test.client, test.user), test.action, test.topic)]
		if got != test.want {
			t.Errorf("%q of %q: %v %q: got %q, want %q", test.client, test.user, test.action, test.topic, got, test.want)
		}
		allowed, line, why := a.Explain(test.client, test.user, test.action, test.topic)
		if allowed != (test.want == "yes") || line != test.line {
			t.Errorf("%q of %q: %v %q: got line %d, want %d: %s", test.client, test.user, test.action, test.topic, line, test.line, why)
		}
	}
}

func TestExplain(t *testing.T) {
	a := parseACL(t, testACL)
	for _, test := range []struct {
		action      broker.Action
		topic, want string
	}{
		{w, "home/anna/safe/door", `no: acl.txt:6 "home/anna/safe/#" denies it`},
		{w, "free", `yes: acl.txt:7 "free" allows it`},
		{w, "elsewhere", `no: acl.txt: no line allows it`},
		{s, "lab/#", `no: acl.txt:9 "lab/+/results" allows subscribing to a part of it only`},
		{s, "home/#", `yes: acl.txt:5 "home/anna/#" allows reading, and each delivery is checked`},
	} {
		if _, _, why := a.Explain("c", "anna", test.action, test.topic); why != test.want {
			t.Errorf("got %q, want %q", why, test.want)
		}
	}
	if got := a.Users(); !slices.Equal(got, []string{"anna", "bob the builder"}) {
		t.Errorf("users %q", got)
	}
}

func TestCoversRead(t *testing.T) {
	a := parseACL(t, testACL)
	for _, test := range []struct {
		client, user, filter string
		want                 bool
	}{
		{"c", "", "news/#", true},
		{"c", "", "news/+/x", true},
		{"c", "", "#", false},
		{"c", "", "", false},
		{"c", "anna", "home/anna/light", true},
		{"c", "anna", "home/anna/+", false}, // home/anna/safe is denied
		{"c", "anna", "home/anna/#", false}, // in part
		{"c", "anna", "lab/#", true},
		{"c", "anna", "inbox/+", false},
		{"d7", "anna", "devices/d7/down", true},
		{"d7", "anna", "devices/+/down", false},
		{"d7", "anna", "users/anna/x/#", true},
		{"d7", "anna", "users/anna/#", false},
	} {
		if got := a.CoversRead(client(test.client, test.user), test.filter); got != test.want {
			t.Errorf("%q of %q: %q: got %v", test.client, test.user, test.filter, got)
		}
	}
}

func TestACLRefused(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "no rules, so nobody may do anything"},
		{"# nothing\nuser anna\n", "no rules"},
		{"topic", "acl.txt:1: no topic filter; write: topic read FILTER"},
		{"topic read a\ntopic reed a b", `acl.txt:2: unknown access "reed"`},
		{"topic read a/#/b", "acl.txt:1:"},
		{"topic read a+", "misplaced wildcard"},
		{"pattern read $share/g/a", "leave out $share"},
		{"topic read devices/%c", `"pattern" lines only`},
		{"pattern read devices/x%c", "whole level"},
		{"pattern read %c%u", "whole level"},
		{"user", "user is empty; write: user NAME"},
		{"user  \ntopic read a", "user is empty"},
		{"allow all", `"allow" is not understood; a line begins with topic, pattern, user or anonymous`},
		{"topic read a\n\x00", "not understood"},
		{"topic read \xff", "UTF-8"},
		{"Topic read a", "not understood"},
		{"anonymous please\ntopic read a", "not understood"},
	}
	for _, test := range tests {
		_, err := ParseACL("acl.txt", []byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "acl.txt:") {
			t.Errorf("%q: got %v, want %q", test.text, err, test.want)
		}
	}
}

// An empty, broken or missing list denies everything, and leaves the decision to nobody else.
func TestA12ACLFile(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "blank": "\n# x\n", "broken": "topic readwrite #\nbroken", "cut": "topic readwrite #\nuse"} {
		t.Run(name, func(t *testing.T) {
			path := write(t, text)
			f, err := OpenACL(path)
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v, want an error with the path", err)
			}
			for _, a := range []broker.Action{r, w, s} {
				err := Authorizers{f, AllowAll{}}.Authorize(client("c", ""), a, "x")
				wantCode(t, err, mqtt.NotAuthorized)
			}
			if (Authorizers{f, AllowAll{}}).CoversRead(client("c", ""), "x") {
				t.Error("reading is covered")
			}
			if ok, _, why := f.Explain("c", "", r, "x"); ok || !strings.Contains(why, path) {
				t.Errorf("explained as %v, %q", ok, why)
			}
		})
	}
}

// Reloading a broken list keeps the good one; a mended list comes into force.
func TestA12ACLReload(t *testing.T) {
	path := write(t, "topic write a")
	f, err := OpenACL(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ text, allowed string }{{"", "a"}, {"topic reed a b", "a"}, {"topic write b", "b"}} {
		rewrite(t, path, step.text)
		_ = f.Reload()
		for _, name := range []string{"a", "b"} {
			if got := f.Authorize(client("c", ""), w, name) == nil; got != (name == step.allowed) {
				t.Errorf("after %q: %s is %v", step.text, name, got)
			}
		}
	}
	if ok, line, _ := f.Explain("c", "", w, "b"); !ok || line != 1 {
		t.Errorf("explained as %v, line %d", ok, line)
	}
	if !f.neverDeniesRead(client("c", ""), "b") || f.CoversRead(client("c", ""), "b") {
		t.Error("reading b is denied, or covered")
	}
}

// A Client Identifier or user with + # / $ in it, or none, never widens a pattern, and never escapes a denial.
func TestA11HostileNames(t *testing.T) {
	a := parseACL(t, `
pattern readwrite devices/%c/data
pattern readwrite %u/#
pattern readwrite home/%u/#
topic readwrite shared/#
user anna
topic readwrite shared/#
user +
topic readwrite shared/#
user #
topic readwrite shared/#
pattern deny shared/%c/secret
pattern deny shared/%u/secret
`)
	topics := []string{
		"devices/d7/data", "devices//data", "devices/a/b/data", "devices/+/data", "devices/#/data", "home/anna/x", "home/x", "home/#",
		"home/+/x", "home", "anna/x", "$SYS/x", "+/x", "#", "devices/+/+/data", "devices/$SYS/data", "home//x", "/x",
	}
	hostile := []string{"+", "#", "", "/", "a/b", "+/+", "d7/#", "$SYS", "x$", "#/data", "+/data", "a/+"}
	for _, name := range hostile {
		for _, c := range []*broker.ClientInfo{client(name, ""), client("d8", name), client(name, name)} {
			for _, topic := range topics {
				for _, act := range []broker.Action{r, w, s} {
					own := fitsLevel(c.ClientID) && topic == "devices/"+c.ClientID+"/data" ||
						act == s && (fitsLevel(c.ClientID) && overlaps(topic, "devices/"+c.ClientID+"/data") || overlaps(topic, "shared/#"))
					if err := a.Authorize(c, act, topic); err == nil && !own {
						t.Errorf("%q of %q may %v %q", c.ClientID, c.User, act, topic)
					}
				}
				if a.CoversRead(c, topic) {
					t.Errorf("%q of %q is covered for %q", c.ClientID, c.User, topic)
				}
			}
			for _, name := range []string{"shared/anna/secret", "shared/d7/secret", "shared/+/secret", "shared//secret"} {
				if err := a.Authorize(c, r, name); err == nil {
					t.Errorf("%q of %q escapes the denial of %q", c.ClientID, c.User, name)
				}
			}
			if a.CoversRead(c, "shared/#") || a.CoversRead(c, "shared/x/secret") {
				t.Errorf("%q of %q is covered for what is denied", c.ClientID, c.User)
			}
		}
	}
	if err := a.Authorize(client("d7", "anna"), w, "shared/d8/secret"); err != nil {
		t.Errorf("a denial for d7 holds for d8: %v", err)
	}
}

// randomFilter makes filters of few levels, so that they meet often.
func randomFilter(rng *rand.Rand, levels ...string) string {
	var f []string
	for range 1 + rng.IntN(4) {
		f = append(f, levels[rng.IntN(len(levels))])
	}
	if rng.IntN(3) == 0 {
		f = append(f, "#")
	}
	if filter := strings.Join(f, "/"); filter != "" {
		return filter
	}
	return "/"
}

// universe holds every name of up to four of these levels: enough to find a witness wherever there is one.
var universe = func() (names []string) {
	level := []string{"a", "b", "", "$x", "c1"}
	names = append(names, level...)
	for from, depth := 0, 1; depth < 4; depth++ {
		to := len(names)
		for _, n := range names[from:to] {
			for _, l := range level {
				names = append(names, n+"/"+l)
			}
		}
		from = to
	}
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}()

func TestOverlapsOracle(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 1))
		a := randomFilter(rng, "a", "b", "+", "", "$x")
		b := randomFilter(rng, "a", "b", "+", "", "$x")
		want := slices.ContainsFunc(universe, func(n string) bool { return topic.Match(a, n) && topic.Match(b, n) })
		if max(a, b) == "/#" && min(a, b) == "+" {
			want = true // they meet in the empty name only, and saying so is on the safe side
		}
		if overlaps(a, b) != want || overlaps(b, a) != want {
			t.Fatalf("seed %d: %q and %q: got %v, want %v", seed, a, b, overlaps(a, b), want)
		}
	}
}

func TestRuleMatchesOracle(t *testing.T) {
	clients := []string{"c1", "a", "+", "#", "a/b", "$x", ""}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		filter := randomFilter(rng, "a", "b", "+", "", "%c", "%u", "$x")
		access := []access{mayRead, denied}[rng.IntN(2)]
		rule, err := compileRule(1, access, filter, true)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		subj := newSubject(clients[rng.IntN(len(clients))], clients[rng.IntN(len(clients))])
		own, ok := rule.filterFor(&subj)
		for range 300 {
			name := universe[rng.IntN(len(universe))]
			if got, want := rule.matches(&subj, name), ok && topic.Match(own, name); got != want {
				t.Fatalf("seed %d: %q for %+v on %q: got %v, want %v", seed, filter, subj, name, got, want)
			}
		}
	}
}

// What the list says as a whole, against the plain meaning of its sentences.
func TestACLOracle(t *testing.T) {
	words := []string{"read", "write", "readwrite", "deny", "subscribe"}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		type line struct{ word, filter string }
		var lines []line
		var text strings.Builder
		for range 1 + rng.IntN(6) {
			l := line{words[rng.IntN(len(words))], randomFilter(rng, "a", "b", "+")}
			lines = append(lines, l)
			fmt.Fprintf(&text, "topic %s %s\n", l.word, l.filter)
		}
		a := parseACL(t, text.String())
		anyMatch := func(name string, words ...string) bool {
			return slices.ContainsFunc(lines, func(l line) bool { return slices.Contains(words, l.word) && topic.Match(l.filter, name) })
		}
		may := func(name, word string) bool { return !anyMatch(name, "deny") && anyMatch(name, word, "readwrite") }
		for range 100 {
			name := universe[rng.IntN(len(universe))]
			if got := a.Authorize(client("c", ""), r, name) == nil; got != may(name, "read") {
				t.Fatalf("seed %d: read %q: got %v with\n%s", seed, name, got, &text)
			}
			if got := a.Authorize(client("c", ""), w, name) == nil; got != may(name, "write") {
				t.Fatalf("seed %d: write %q: got %v with\n%s", seed, name, got, &text)
			}
		}
		filter := randomFilter(rng, "a", "b", "+")
		readable, all := false, true
		for _, name := range universe {
			if topic.Match(filter, name) {
				readable = readable || anyMatch(name, "read", "readwrite")
				all = all && may(name, "read")
			}
		}
		if a.CoversRead(client("c", ""), filter) && !all {
			t.Fatalf("seed %d: %q is covered with\n%s", seed, filter, &text)
		}
		touches := slices.ContainsFunc(lines, func(l line) bool { return l.word == "subscribe" && overlaps(l.filter, filter) })
		granted := slices.ContainsFunc(lines, func(l line) bool { return l.word == "subscribe" && topic.Covers(l.filter, filter) })
		barred := slices.ContainsFunc(lines, func(l line) bool { return l.word == "deny" && topic.Covers(l.filter, filter) })
		want := !barred && (granted || !touches && readable)
		if got := a.Authorize(client("c", ""), s, filter) == nil; got != want {
			t.Fatalf("seed %d: subscribe %q: got %v with\n%s", seed, filter, got, &text)
		}
	}
}

func FuzzACL(f *testing.F) {
	f.Add([]byte(testACL), "c", "anna", "home/anna/x")
	f.Add([]byte("pattern readwrite %c/%u/#"), "+", "#", "a/b/c")
	f.Add([]byte("topic deny #\ntopic read +/+"), "c", "", "/")
	f.Fuzz(func(t *testing.T, data []byte, id, user, name string) {
		a, err := ParseACL("f", data)
		if err != nil || topic.ValidateName(name, topic.Limits{}) != nil {
			return
		}
		c := client(id, user)
		readable := a.Authorize(c, r, name) == nil
		if a.CoversRead(c, name) && !readable {
			t.Errorf("%q: %q is covered, but may not be read", data, name)
		}
		if err := a.Authorize(c, s, name); err == nil && !readable && !slices.ContainsFunc(a.of(user), func(r rule) bool { return r.access == maySubscribe }) &&
			!slices.ContainsFunc(a.everybody, func(r rule) bool { return r.access == maySubscribe }) {
			t.Errorf("%q: %q may be subscribed to, but not read", data, name)
		}
		if ok, _, why := a.Explain(id, user, r, name); ok != readable {
			t.Errorf("%q: explained as %v: %s", data, ok, why)
		}
	})
}

func bigACL(tb testing.TB, rules int) (*ACL, *broker.ClientInfo) {
	var text strings.Builder
	text.WriteString("pattern readwrite d/%u/%c/#\npattern deny d/%u/%c/secret\nuser u\n")
	for i := range rules {
		fmt.Fprintf(&text, "topic readwrite building/%d/+/state\n", i)
	}
	return parseACL(tb, text.String()), client("device-0042", "u")
}

func TestACLDoesNotAllocate(t *testing.T) {
	a, c := bigACL(t, 10)
	for _, name := range []string{"d/u/device-0042/telemetry", "d/u/device-0042/secret", "building/9/x/state", "none"} {
		for _, act := range []broker.Action{r, w} {
			if n := testing.AllocsPerRun(100, func() { _ = a.Authorize(c, act, name) }); n != 0 {
				t.Errorf("%v %q: %v allocations", act, name, n)
			}
		}
	}
}

func BenchmarkACL(b *testing.B) {
	for _, n := range []int{10, 1000} {
		a, c := bigACL(b, n)
		for _, bench := range []struct {
			name  string
			act   broker.Action
			topic string
		}{
			{"write-pattern", w, "d/u/device-0042/telemetry"},
			{"write-denied", w, "d/u/device-0042/secret"},
			{"read-last", r, fmt.Sprintf("building/%d/x/state", n-1)},
			{"write-none", w, "elsewhere/x"},
			{"subscribe", s, "d/u/device-0042/#"},
		} {
			b.Run(fmt.Sprintf("%s/rules=%d", bench.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_ = a.Authorize(c, bench.act, bench.topic)
				}
			})
		}
	}
}

func TestTopics(t *testing.T) {
	list, err := NewTopics([]string{"up/%c"}, []string{"down/%c/#", "news"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		client string
		action broker.Action
		topic  string
		want   bool
	}{
		{"c", w, "up/c", true}, {"c", w, "up/d", false}, {"c", r, "up/c", false}, {"c", w, "news", false},
		{"c", r, "news", true}, {"c", s, "news", true}, {"c", s, "down/c/x", true}, {"c", s, "down/d/x", false},
		{"c", s, "#", true}, {"+", w, "up/x", false}, {"+", s, "down/+/#", false},
	} {
		err := list.Authorize(client(test.client, ""), test.action, test.topic)
		if (err == nil) != test.want || err != nil && !errors.Is(err, mqtt.NotAuthorized) {
			t.Errorf("%s: %v %q: %v", test.client, test.action, test.topic, err)
		}
	}
	if !list.CoversRead(client("c", ""), "down/c/#") || list.CoversRead(client("c", ""), "#") {
		t.Error("covers too little or too much")
	}
	for _, bad := range []struct{ pub, sub []string }{{pub: []string{"a/#/b"}}, {sub: []string{""}}, {sub: make([]string, maxTopics+1)}} {
		if _, err := NewTopics(bad.pub, bad.sub); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
