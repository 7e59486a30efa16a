package text

import (
	"strings"
	"testing"
	"unicode"
)

func TestEscape(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"bins/7/level", "bins/7/level"},
		{"温度: 23℃", "温度: 23℃"},
		{"a\x1b[2Jb", `a\x1b[2Jb`},
		{"line\nfake", `line\nfake`},
		{"\u009b31m", `\u009b31m`}, // the one-character form of ESC [
		{"\u202eabc", `\u202eabc`}, // right-to-left override
		{"\xff\xfe", `\xff\xfe`},
		{`C:\x`, `C:\\x`}, // so that what is escaped cannot be forged
		{"\ufffd", "\ufffd"},
		{"\x7f", `\x7f`},
	} {
		if got := Escape(c.in); got != c.want {
			t.Errorf("Escape(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestPayload(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"93", 200, "93"},
		{"abcdef", 6, "abcdef"},
		{"abcdef", 4, "abcd… (+2 bytes)"},
		{"ab温度", 4, "ab… (+6 bytes)"},
		{"\x80\x80\x80\x80\x80\x80", 5, `\x80… (+5 bytes)`},
	} {
		if got := Payload([]byte(c.in), c.limit); got != c.want {
			t.Errorf("Payload(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a\x1b[31m\u202e\xff", 3)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		for _, out := range []string{Escape(s), Payload([]byte(s), max(0, min(limit, 1000)))} {
			if i := strings.IndexFunc(out, func(r rune) bool { return !unicode.IsPrint(r) && r != '\ufffd' }); i >= 0 {
				t.Errorf("%q became %q, which is not printable at %d", s, out, i)
			}
		}
	})
}

func TestNearest(t *testing.T) {
	known := []string{"listeners", "limits", "log", "auth", "data"}
	for _, c := range []struct{ in, want string }{
		{"lisenters", "listeners"},
		{"listner", "listeners"},
		{"limit", "limits"},
		{"Log", "log"},
		{"dtaa", "data"},
		{"lisen", "listeners"},
		{"foo", ""},
		{"zzzzzz", ""},
		{"", ""},
	} {
		if got := Nearest(c.in, known); got != c.want {
			t.Errorf("Nearest(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}
