package mosquitto

import (
	"strings"
	"testing"

	"github.com/magpiemq/magpie/auth"
)

// Hashes of the password "secret" as mosquitto_passwd writes them, the second with -H sha512.
const (
	hashed7 = "$7$101$/KTAHPNWkuR+H1nm$k1nH6Xwqqw0b6G/4j8c5+o4+ugNvgyoanJnzdytj+4BMSY3gMgykHcQNKA+mK0PaJVGpYvplU1PofFPxOrgROA=="
	hashed6 = "$6$7kib9ynNRhvJj1h6$TKwvv8UJgWkGKyC50LiWtKZ9dBoI8Q6RmobKZKGEO9Pf9LCCyjzAJPx45cflK76DMhre+RUrG8zJXrAg6y/LUQ=="
)

func TestPasswords(t *testing.T) {
	in := "# users\nann:" + hashed7 + "\r\nbob:" + hashed6 + "\n\nann:" + hashed7 + "\ncarl:plain text\ndora\neve:$1$abc$def\nfay:$7$101$xx$yy\n"
	out, users, notes := Passwords("pw", []byte(in))
	if want := "ann:" + hashed7 + "\nbob:" + hashed6 + "\n"; string(out) != want || users != 2 {
		t.Errorf("%d users in\n%s\nwant\n%s", users, out, want)
	}
	want := []string{
		`pw:5: user "ann" is there twice: the first one counts`,
		`pw:6: user "carl" has no hashed password and needs a new one: magpie passwd`,
		`pw:7: user "dora" has no hashed password and needs a new one: magpie passwd`,
		`pw:8: user "eve" needs a new password: the hash is of no kind that is known here`,
		`pw:9: user "fay" needs a new password: the hash is of no kind that is known here`,
	}
	wantNotes(t, notes, want)
	if err := auth.CheckPasswords("pw", out); err != nil {
		t.Error(err)
	}
}

func wantNotes(t *testing.T, notes []Note, want []string) {
	t.Helper()
	var got []string
	for _, n := range notes {
		got = append(got, n.String())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("notes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestACL(t *testing.T) {
	const in = `# everybody
topic read public/#
pattern write d/%c/up
pattern read d/%u-%c/down
pattern deny d/%u-x/secret
user ann
topic a/b c
topic deny a/%c-1/x
user bad+` + "\x01" + `name
topic read everything/#
topic deny nothing/#
user bob
topic readwrite home/#
`
	const want = `# everybody
topic read public/#
pattern write d/%c/up
# pattern read d/%u-%c/down
pattern deny d/+/secret
user ann
# topic a/b c
topic deny a/+/x
# user bad+` + "\x01" + `name
# topic read everything/#
# topic deny nothing/#
user bob
topic readwrite home/#
`
	out, rules, notes, err := ACL("acl", []byte(in))
	if err != nil || string(out) != want || rules != 5 {
		t.Errorf("%v: %d rules in\n%s\nwant\n%s", err, rules, out, want)
	}
	if _, err := auth.ParseACL("acl", out); err != nil {
		t.Error(err)
	}
	var lines []int
	for _, n := range notes {
		lines = append(lines, n.Line)
	}
	if len(lines) != 5 {
		t.Errorf("notes %v", notes)
	}
	if _, _, _, err := ACL("acl", []byte("topic read a\ntopic deny a/#/b\n")); err == nil || !strings.Contains(err.Error(), "acl:2: a denial") {
		t.Errorf("a denial that makes no sense: %v", err)
	}
}

// FuzzACL wants lists that are understood, and that no denial gets lost.
func FuzzACL(f *testing.F) {
	f.Add([]byte("user a\ntopic deny x/%u\npattern deny a b/%c-/c\n#\ntopic read a"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, rules, _, err := ACL("acl", in)
		if err != nil {
			return
		}
		if _, err := auth.ParseACL("acl", out); rules > 0 && err != nil {
			t.Errorf("%q became %q: %v", in, out, err)
		}
	})
}

// FuzzPasswords wants files that are understood.
func FuzzPasswords(f *testing.F) {
	f.Add([]byte("ann:" + hashed7 + "\nbob:" + hashed6))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, users, _ := Passwords("pw", in)
		if err := auth.CheckPasswords("pw", out); users > 0 && err != nil {
			t.Errorf("%q became %q: %v", in, out, err)
		}
	})
}
