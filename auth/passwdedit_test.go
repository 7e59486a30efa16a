package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReplaceUser(t *testing.T) {
	tests := []struct{ old, line, want string }{
		{"", "u:new", "u:new\n"},
		{"a:1\n", "u:new", "a:1\nu:new\n"},
		{"a:1", "u:new", "a:1\nu:new\n"},
		{"# u:1\nu:1\nuu:1\n", "u:new", "# u:1\nu:new\nuu:1\n"},
		{"u:1\r\na:1\nu:2\n", "u:new", "u:new\na:1\n"},
		{"\ufeffu:1\n", "u:new", "u:new\n"},
		{"broken line\nu:1", "u:new", "broken line\nu:new\n"},
		{"a:1\nu:1\nu:2", "", "a:1\n"},
		{"a:1", "", "a:1"},
	}
	for _, test := range tests {
		if got := replaceUser(test.old, "u", test.line); got != test.want {
			t.Errorf("%q with %q: got %q, want %q", test.old, test.line, got, test.want)
		}
	}
}

func TestSetPasswordRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	for _, test := range []struct{ user, password, want string }{
		{"", "x", "user is empty"},
		{"a:b", "x", "colon"},
		{"#a", "x", "#"},
		{"a\nb", "x", "control character"},
		{"a", "", "empty"},
	} {
		err := SetPassword(path, test.user, test.password, PasswordOptions{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %q", test.user, err, test.want)
		}
	}
	if err := SetPassword(path, "a", "x", PasswordOptions{SCRAM: true, Iterations: 1}); err == nil {
		t.Error("one iteration was taken")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
}

func TestDeleteUser(t *testing.T) {
	path := write(t, "anna:"+hash7+"\nbob:"+hash6+"\n")
	if err := DeleteUser(path, "carl"); !errors.Is(err, ErrNoUser) {
		t.Errorf("unknown user: %v", err)
	}
	if err := DeleteUser(path, "anna"); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "bob:"+hash6+"\n" {
		t.Errorf("left: %q, %v", got, err)
	}
}

// Two editors must not lose each other's work, and a file that is left in the way is named.
func TestEditLocked(t *testing.T) {
	path := write(t, "anna:"+hash7+"\n")
	rewrite(t, path+".new", "")
	err := DeleteUser(path, "anna")
	if err == nil || !strings.Contains(err.Error(), path+".new exists") {
		t.Errorf("got %v", err)
	}
	if got, _ := os.ReadFile(path); !strings.HasPrefix(string(got), "anna:") {
		t.Errorf("the file was changed: %q", got)
	}
}

func TestEditThroughLink(t *testing.T) {
	path := write(t, "anna:"+hash7+"\n")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := DeleteUser(link, "anna"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || len(got) != 0 {
		t.Errorf("the file behind the link holds %q, %v", got, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
}
