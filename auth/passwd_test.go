package auth

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

const twoUsers = "# users\n\nanna:" + hash7 + "\nbob:" + hash6 + ":" + scramKeys + "\r\npia:" + scramKeys + "\n"

func openPasswords(t testing.TB, text string, cfg PasswordConfig) *PasswordFile {
	t.Helper()
	f, err := OpenPasswords(write(t, text), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPasswords(t *testing.T) {
	f := openPasswords(t, "\ufeff"+twoUsers, PasswordConfig{})
	nameOnly := login("anna", "")
	nameOnly.HasPassword = false
	tests := []struct {
		r    *broker.ConnectRequest
		want mqtt.ReasonCode
	}{
		{login("anna", "pass word"), mqtt.Success},
		{login("anna", "pass wor"), mqtt.BadUserNameOrPassword},
		{login("anna", ""), mqtt.BadUserNameOrPassword},
		{nameOnly, mqtt.BadUserNameOrPassword},
		{login("bob", "secret6"), mqtt.Success},
		{login("bob", "pencil"), mqtt.BadUserNameOrPassword}, // the hash counts, not the keys beside it
		{login("pia", "pencil"), mqtt.Success},
		{login("Anna", "pass word"), mqtt.BadUserNameOrPassword},
		{login("carl", "pass word"), mqtt.BadUserNameOrPassword},
		{login("", ""), mqtt.BadUserNameOrPassword},
		{login("# users", ""), mqtt.BadUserNameOrPassword},
	}
	for _, test := range tests {
		for range 2 { // from the file, and perhaps from the cache
			g, err := f.Authenticate(t.Context(), test.r)
			wantCode(t, err, test.want)
			if err == nil && g.User != test.r.Username || err != nil && g.User != "" {
				t.Errorf("%q became %q", test.r.Username, g.User)
			}
		}
	}
	if _, err := f.Authenticate(t.Context(), &broker.ConnectRequest{}); err != broker.ErrNoOpinion {
		t.Errorf("without user name: %v", err)
	}
}

func TestPasswordFileRefused(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "no users, so nobody may connect; write it with: magpie passwd"},
		{"# nothing\n\n", "no users"},
		{"anna:" + hash7 + "\nbob", ":2: no colon"},
		{"anna:hunter2\n", `:1: user "anna": not a password hash; write it with: magpie passwd`},
		{"\n\nanna:$9$x$y\n", `:3: user "anna": unknown hash "$9$…"; write it with: magpie passwd`},
		{":" + hash7 + "\n", ":1: user is empty"},
		{"an\x01na:" + hash7 + "\n", "control character"},
		{"an\xffna:" + hash7 + "\n", "UTF-8"},
		{"anna:" + hash7 + "\nanna:" + hash6 + "\n", `:2: user "anna" is already on line 1`},
		{"anna:" + hash7 + ":hunter2\n", "SCRAM keys are not of the form"},
		{"anna:" + hash7[:60], "hash"},
	}
	for _, test := range tests {
		_, err := parsePasswords("passwords.txt", []byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "passwords.txt:") {
			t.Errorf("%q: got %v, want %q", test.text, err, test.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v gives a password away", test.text, err)
		}
	}
}

// An empty, broken or missing password file lets nobody in, and the error says where and what to do.
func TestA12PasswordFile(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "blank": "\n\n", "broken": "anna:" + hash7 + "\nbroken", "NUL": "\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			denying(t, write(t, text))
		})
	}
	t.Run("missing", func(t *testing.T) { denying(t, filepath.Join(t.TempDir(), "none")) })
	t.Run("directory", func(t *testing.T) { denying(t, t.TempDir()) })
}

func denying(t *testing.T, path string) {
	t.Helper()
	f, err := OpenPasswords(path, PasswordConfig{PassUnknown: true})
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v, want an error with the path", err)
	}
	for _, r := range []*broker.ConnectRequest{login("anna", "pass word"), login("", ""), login("anna", "")} {
		_, err := f.Authenticate(t.Context(), r)
		wantCode(t, err, mqtt.BadUserNameOrPassword)
	}
	x, err := f.Scram().Start(login("anna", ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = runScram(x, NewScramClient("anna", "pass word")); codeOf(err) != mqtt.BadUserNameOrPassword {
		t.Errorf("SCRAM: %v", err)
	}
}

// Reloading a broken file keeps the good one; mending a file that was broken at the start lets users in.
func TestA12PasswordReload(t *testing.T) {
	path := write(t, "broken")
	f, err := OpenPasswords(path, PasswordConfig{})
	if err == nil {
		t.Fatal("a broken file was read")
	}
	for _, step := range []struct {
		text string
		good bool
	}{{twoUsers, true}, {"", false}, {"anna:$9$", false}, {twoUsers + "\n", true}} {
		rewrite(t, path, step.text)
		if err := f.Reload(); (err == nil) != step.good {
			t.Errorf("%q: %v", step.text, err)
		}
		_, err := f.Authenticate(t.Context(), login("anna", "pass word"))
		wantCode(t, err, mqtt.Success)
	}
}

// A guesser sees no difference between a wrong password and an unknown user: same code, same work, no grant.
func TestA14UserEnumeration(t *testing.T) {
	f := openPasswords(t, twoUsers, PasswordConfig{})
	for i, r := range []*broker.ConnectRequest{
		login("anna", "wrong"), login("nobody", "wrong"), login("nobody", "pass word"), login("", "x"), login("pia", "x"),
	} {
		before := f.work.Load()
		for range 3 {
			g, err := f.Authenticate(t.Context(), r)
			if codeOf(err) != mqtt.BadUserNameOrPassword || g != (broker.Grant{}) {
				t.Errorf("%d: got %v, %v", i, g, err)
			}
		}
		if n := f.work.Load() - before; n != 3 {
			t.Errorf("%d: %d hashes were computed, want 3", i, n)
		}
	}
}

// An unknown user is measured against hashes of the kinds that known users have, the same one every time.
func TestA14DecoyIsStable(t *testing.T) {
	f := openPasswords(t, twoUsers, PasswordConfig{})
	p, err := f.value()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for i := range 200 {
		name := fmt.Sprint("nobody", i)
		one, known := p.find(f.keys, name)
		if two, _ := p.find(f.keys, name); one != two || known {
			t.Fatalf("%s: known %v, or another decoy the second time", name, known)
		}
		used[one.user] = true
	}
	if len(used) != 3 {
		t.Errorf("decoys are like %v, not like every user", used)
	}
}

func TestPasswordCache(t *testing.T) {
	path := write(t, twoUsers)
	f, err := OpenPasswords(path, PasswordConfig{})
	if err != nil {
		t.Fatal(err)
	}
	work := func(r *broker.ConnectRequest, want mqtt.ReasonCode) int64 {
		before := f.work.Load()
		_, err := f.Authenticate(t.Context(), r)
		wantCode(t, err, want)
		return f.work.Load() - before
	}
	steps := []struct {
		user, password string
		want           mqtt.ReasonCode
		work           int64
	}{
		{"anna", "pass word", mqtt.Success, 1},
		{"anna", "pass word", mqtt.Success, 0},
		{"anna", "wrong", mqtt.BadUserNameOrPassword, 1},
		{"anna", "wrong", mqtt.BadUserNameOrPassword, 1},
		{"bob", "pass word", mqtt.BadUserNameOrPassword, 1},
		{"ann", "apass word", mqtt.BadUserNameOrPassword, 1},
	}
	for i, s := range steps {
		if n := work(login(s.user, s.password), s.want); n != s.work {
			t.Errorf("step %d: %d hashes, want %d", i, n, s.work)
		}
	}
	rewrite(t, path, "anna:"+hash6+"\n")
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	if n := work(login("anna", "pass word"), mqtt.BadUserNameOrPassword); n != 1 {
		t.Errorf("the old password was remembered after the hash changed")
	}
}

func TestPasswordCacheExpires(t *testing.T) {
	path := write(t, twoUsers)
	synctest.Test(t, func(t *testing.T) {
		f, err := OpenPasswords(path, PasswordConfig{CacheTTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []int64{1, 1, 2} {
			if _, err := f.Authenticate(t.Context(), login("anna", "pass word")); err != nil {
				t.Fatal(err)
			}
			if n := f.work.Load(); n != want {
				t.Errorf("login %d: %d hashes, want %d", i, n, want)
			}
			time.Sleep(40 * time.Second)
		}
	})
}

// slowHash tells when it computes and goes on when it may.
type slowHash struct {
	entered chan struct{}
	release chan struct{}
}

func (h slowHash) check([]byte) bool {
	h.entered <- struct{}{}
	<-h.release
	return true
}

func TestPasswordConcurrency(t *testing.T) {
	path := write(t, twoUsers)
	synctest.Test(t, func(t *testing.T) {
		f, err := OpenPasswords(path, PasswordConfig{MaxConcurrent: 2, CacheTTL: -1})
		if err != nil {
			t.Fatal(err)
		}
		slow := slowHash{make(chan struct{}, 10), make(chan struct{})}
		p, _ := f.value()
		p.byUser["anna"].hash = slow
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				_, err := f.Authenticate(context.Background(), login("anna", "x"))
				wantCode(t, err, mqtt.Success)
			})
		}
		synctest.Wait()
		if n := len(slow.entered); n != 2 {
			t.Errorf("%d hashes at once, want 2", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = f.Authenticate(ctx, login("nobody", "x"))
		wantCode(t, err, mqtt.ServerBusy)
		close(slow.release)
		all.Wait()
	})
}

func TestPassUnknown(t *testing.T) {
	f := openPasswords(t, twoUsers, PasswordConfig{PassUnknown: true})
	before := f.work.Load()
	if _, err := f.Authenticate(t.Context(), login("nobody", "x")); !errors.Is(err, broker.ErrNoOpinion) {
		t.Errorf("unknown user: %v", err)
	}
	if f.work.Load() == before {
		t.Error("an unknown user cost no work")
	}
	_, err := f.Authenticate(t.Context(), login("anna", "x"))
	wantCode(t, err, mqtt.BadUserNameOrPassword)
}

func FuzzPasswords(f *testing.F) {
	f.Add([]byte(twoUsers), "anna")
	f.Add([]byte("a:b:c:d\n"), "a")
	f.Add([]byte("a:"+scramKeys+":"+scramKeys), "a")
	k := newKeyer()
	f.Fuzz(func(t *testing.T, data []byte, user string) {
		p, err := parsePasswords("f", data)
		if err != nil {
			return
		}
		e, known := p.find(k, user)
		if e == nil || known != strings.Contains("\n"+strings.TrimPrefix(string(data), "\ufeff"), "\n"+user+":") && known {
			t.Fatalf("%q: user %q: %v", data, user, known)
		}
		if k, _ := p.findScram(user); k.Iterations < minScramIterations || len(k.StoredKey) != 32 {
			t.Fatalf("%q: user %q gets keys %v", data, user, k)
		}
	})
}

func BenchmarkPasswordCached(b *testing.B) {
	f := openPasswords(b, twoUsers, PasswordConfig{})
	r := login("anna", "pass word")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Authenticate(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	for b.Loop() {
		if _, err := Hash("password"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestSetPassword(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	if err := SetPassword(path, "anna", "one", PasswordOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := SetPassword(path, "bob", "two", PasswordOptions{SCRAM: true, Iterations: 4096}); err != nil {
		t.Fatal(err)
	}
	if err := SetPassword(path, "anna", "three", PasswordOptions{}); err != nil {
		t.Fatal(err)
	}
	f, err := OpenPasswords(path, PasswordConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user, password string
		want           mqtt.ReasonCode
	}{
		{"anna", "one", mqtt.BadUserNameOrPassword}, {"anna", "three", mqtt.Success}, {"bob", "two", mqtt.Success},
	} {
		_, err := f.Authenticate(t.Context(), login(test.user, test.password))
		wantCode(t, err, test.want)
	}
	x, err := f.Scram().Start(login("bob", ""))
	if err != nil {
		t.Fatal(err)
	}
	if g, _, err := runScram(x, NewScramClient("bob", "two")); err != nil || g.User != "bob" {
		t.Errorf("SCRAM: %v, %v", g, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}
