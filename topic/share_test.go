package topic

import "testing"

func TestParseShare(t *testing.T) {
	for _, c := range []struct {
		filter, group, rest string
		shared              bool
	}{
		{"$share/g/a/b", "g", "a/b", true},
		{"$share/g/#", "g", "#", true},
		{"$share/g//a", "g", "/a", true},
		{"$share/g/", "g", "", true},
		{"$share/g", "g", "", true},
		{"$share/", "", "", true},
		{"$share//a", "", "a", true},
		{"$share", "", "$share", false},
		{"$Share/g/a", "", "$Share/g/a", false},
		{"$sharex/g/a", "", "$sharex/g/a", false},
		{"a/$share/g/a", "", "a/$share/g/a", false},
		{"", "", "", false},
	} {
		group, rest, shared := ParseShare(c.filter)
		if group != c.group || rest != c.rest || shared != c.shared {
			t.Errorf("%q: got %q %q %v, want %q %q %v", c.filter, group, rest, shared, c.group, c.rest, c.shared)
		}
	}
}
