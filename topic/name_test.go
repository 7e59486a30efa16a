package topic

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestValidateName(t *testing.T) {
	long := strings.Repeat("x", 65535)
	for _, c := range []struct {
		label, name string
		lim         Limits
		want        error
	}{
		{"plain", "bins/7/level", Limits{}, nil},
		{"one slash is two empty levels", "/", Limits{}, nil},
		{"empty levels", "a//b/", Limits{}, nil},
		{"space and case", "Bins/ 7", Limits{}, nil},
		{"Chinese", "春秋淹城/垃圾桶", Limits{}, nil},
		{"byte order mark is a character like others", "\uFEFFa", Limits{}, nil},
		{"dollar is valid here", "$SYS/broker", Limits{}, nil},
		{"share is only special in filters", "$share/g/a", Limits{}, nil},
		{"longest", long, Limits{}, nil},
		{"deepest", strings.Repeat("/", 65535), Limits{}, nil},
		{"empty", "", Limits{}, ErrEmpty},
		{"too long", long + "x", Limits{}, ErrTooLong},
		{"MQTT's limit holds above it", long + "x", Limits{MaxBytes: 1 << 20}, ErrTooLong},
		{"at own limit", "abcd", Limits{MaxBytes: 4}, nil},
		{"above own limit", "abcde", Limits{MaxBytes: 4}, ErrTooLong},
		{"limit is in bytes", "温度", Limits{MaxBytes: 5}, ErrTooLong},
		{"at level limit", "a/b/c", Limits{MaxLevels: 3}, nil},
		{"above level limit", "a/b/c/", Limits{MaxLevels: 3}, ErrTooManyLevels},
		{"plus", "a/+/b", Limits{}, ErrWildcard},
		{"plus inside a level", "a+b", Limits{}, ErrWildcard},
		{"hash", "a/#", Limits{}, ErrWildcard},
		{"NUL", "a\x00b", Limits{}, ErrNUL},
		{"stray byte", "a\x80", Limits{}, ErrUTF8},
		{"truncated sequence", "a\xe6\xb8", Limits{}, ErrUTF8},
		{"overlong slash", "a\xc0\xafb", Limits{}, ErrUTF8},
		{"surrogate", "a\xed\xa0\x80", Limits{}, ErrUTF8},
		{"above U+10FFFF", "\xf4\x90\x80\x80", Limits{}, ErrUTF8},
	} {
		if err := ValidateName(c.name, c.lim); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.label, err, c.want)
		}
	}
}

func TestValidateFilter(t *testing.T) {
	for _, c := range []struct {
		filter string
		lim    Limits
		want   error
	}{
		{"a/b", Limits{}, nil},
		{"#", Limits{}, nil},
		{"+", Limits{}, nil},
		{"+/#", Limits{}, nil},
		{"/+", Limits{}, nil},
		{"a/+/b/#", Limits{}, nil},
		{"$SYS/#", Limits{}, nil},
		{"$share", Limits{}, nil},
		{"$shared/g/a", Limits{}, nil},
		{"$share/g/a", Limits{}, nil},
		{"$share/g/#", Limits{}, nil},
		{"$share/g//", Limits{}, nil},
		{"$share/g/$SYS/#", Limits{}, nil},
		{strings.Repeat("+/", 32767) + "#", Limits{}, nil},
		{"", Limits{}, ErrEmpty},
		{strings.Repeat("+/", 32768), Limits{}, ErrTooLong},
		{"a/#/b", Limits{}, ErrWildcard},
		{"#/", Limits{}, ErrWildcard},
		{"a#", Limits{}, ErrWildcard},
		{"a/b#", Limits{}, ErrWildcard},
		{"##", Limits{}, ErrWildcard},
		{"#+", Limits{}, ErrWildcard},
		{"a+", Limits{}, ErrWildcard},
		{"+a/b", Limits{}, ErrWildcard},
		{"a/++/b", Limits{}, ErrWildcard},
		{"a\x00", Limits{}, ErrNUL},
		{"a/\xff/+", Limits{}, ErrUTF8},
		{"a/b/#", Limits{MaxLevels: 3}, nil},
		{"a/b/c/#", Limits{MaxLevels: 3}, ErrTooManyLevels},
		{"$share/g/a/b/#", Limits{MaxLevels: 3}, nil},
		{"$share/g/a/b/c/#", Limits{MaxLevels: 3}, ErrTooManyLevels},
		{"$share/", Limits{}, ErrShare},
		{"$share/g", Limits{}, ErrShare},
		{"$share/g/", Limits{}, ErrShare},
		{"$share//a", Limits{}, ErrShare},
		{"$share/+/a", Limits{}, ErrShare},
		{"$share/#", Limits{}, ErrShare},
		{"$share/g#/a", Limits{}, ErrShare},
		{"$share/g/$share/h/a", Limits{}, ErrShare},
		{"$share/g/a/#/b", Limits{}, ErrWildcard},
	} {
		if err := ValidateFilter(c.filter, c.lim); !errors.Is(err, c.want) {
			t.Errorf("%.30q: got %v, want %v", c.filter, err, c.want)
		}
	}
}

func TestValidateDoesNotQuote(t *testing.T) {
	for _, err := range []error{ValidateName("hostile\x00", Limits{}), ValidateFilter("hostile#", Limits{})} {
		if err == nil || strings.Contains(err.Error(), "hostile") {
			t.Errorf("error %q: want one that does not quote", err)
		}
	}
}

func TestValidateDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if ValidateName("d/p/温度", Limits{MaxLevels: 9}) != nil || ValidateFilter("$share/g/d/+/#", Limits{MaxLevels: 9}) != nil {
			t.Fatal("valid topics refused")
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

// validFilter says the rules of §4.7 and §4.8.2 once more, by splitting.
func validFilter(filter string) bool {
	if !validText(filter) {
		return false
	}
	levels := strings.Split(filter, "/")
	if levels[0] == "$share" && len(levels) > 1 {
		if len(levels) < 3 || levels[1] == "" || strings.ContainsAny(levels[1], "+#") {
			return false
		}
		levels = levels[2:]
		if len(levels) == 1 && levels[0] == "" || levels[0] == "$share" && len(levels) > 1 {
			return false
		}
	}
	for i, level := range levels {
		alone := level == "+" || level == "#" && i == len(levels)-1
		if strings.ContainsAny(level, "+#") && !alone {
			return false
		}
	}
	return true
}

func validText(s string) bool {
	return s != "" && len(s) <= 65535 && utf8.ValidString(s) && !strings.Contains(s, "\x00")
}

func FuzzValidate(f *testing.F) {
	for _, s := range []string{"", "a/b", "a/+/#", "$share/g/a", "$share/g/$share/", "a#", "\x00", "\xff", "#/", "$share//", "温/+"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := ValidateFilter(s, Limits{}) == nil, validFilter(s); got != want {
			t.Errorf("filter %q: valid is %v, want %v", s, got, want)
		}
		want := validText(s) && !strings.ContainsAny(s, "+#")
		if got := ValidateName(s, Limits{}) == nil; got != want {
			t.Errorf("name %q: valid is %v, want %v", s, got, want)
		}
	})
}
