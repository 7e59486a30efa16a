package auth

import (
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestHash(t *testing.T) {
	one, err := Hash("秘密")
	if err != nil {
		t.Fatal(err)
	}
	two, err := Hash("秘密")
	if err != nil {
		t.Fatal(err)
	}
	if one == two {
		t.Errorf("two hashes of one password are equal: %s", one)
	}
	h, err := parseHash(one)
	if err != nil {
		t.Fatal(err)
	}
	if !h.check([]byte("秘密")) || h.check([]byte("秘")) || h.check(nil) {
		t.Errorf("%s does not tell passwords apart", one)
	}
	if _, err := Hash(""); err == nil {
		t.Error("an empty password was hashed")
	}
}

func TestHashesOfOthers(t *testing.T) {
	raw, err := bcrypt.GenerateFromPassword([]byte("bee"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	b := string(raw[4:])
	tests := []struct{ hash, password string }{
		{hash7, "pass word"},
		{strings.TrimRight(hash7, "="), "pass word"},
		{hash6, "secret6"},
		{"$2a$" + b, "bee"},
		{"$2b$" + b, "bee"},
		{"$2y$" + b, "bee"},
		{scramKeys, "pencil"},
		{"$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$KxUzyhb5nh7HGpBbMiBPT7v0pVUpvlZT27lDTwsQ8oU", ""},
	}
	for _, test := range tests {
		h, err := parseHash(test.hash)
		if err != nil {
			t.Errorf("%s: %v", test.hash, err)
			continue
		}
		if test.password != "" && !h.check([]byte(test.password)) {
			t.Errorf("%s refuses its password", test.hash)
		}
		if h.check([]byte("wrong")) || h.check([]byte(test.password+"x")) {
			t.Errorf("%s takes a wrong password", test.hash)
		}
	}
}

func TestHashRefused(t *testing.T) {
	const salt, sum = "c29tZXNhbHQ", "KxUzyhb5nh7HGpBbMiBPT7v0pVUpvlZT27lDTwsQ8oU"
	tests := []struct{ hash, want string }{
		{"", "not a password hash"},
		{"hunter2", "not a password hash"},
		{"$9$abc$def", `unknown hash "$9$…"`},
		{"$hunter2withoutend", "not a password hash"},
		{"$argon2id$v=16$m=8,t=1,p=1$" + salt + "$" + sum, "form"},
		{"$argon2id$v=19$m=10485760,t=1,p=1$" + salt + "$" + sum, "m=number"}, // 10 GiB
		{"$argon2id$v=19$m=4294967304,t=1,p=1$" + salt + "$" + sum, "m=number"},
		{"$argon2id$v=19$m=8,t=1000000,p=1$" + salt + "$" + sum, "t=number"},
		{"$argon2id$v=19$m=8,t=0,p=1$" + salt + "$" + sum, "t=number"},
		{"$argon2id$v=19$m=8,t=1,p=257$" + salt + "$" + sum, "p=number"},
		{"$argon2id$v=19$m=8,t=1,p=0$" + salt + "$" + sum, "p=number"},
		{"$argon2id$v=19$m=8,t=1$" + salt + "$" + sum, "form"},
		{"$argon2id$v=19$m=8,t=1,p=1$$" + sum, "salt has 0 bytes"},
		{"$argon2id$v=19$m=8,t=1,p=1$" + salt + "$", "hash has 0 bytes"},
		{"$argon2id$v=19$m=8,t=1,p=1$" + salt + "$!", "hash is not base64"},
		{"$7$0$" + salt + "$" + sum, "not between"},
		{"$7$-1$" + salt + "$" + sum, "not between"},
		{"$7$999999999$" + salt + "$" + sum, "not between"},
		{"$7$101$" + salt, "form"},
		{hash7[:60], "not 64"},
		{"$6$" + salt, "form"},
		{"$6$" + salt + "$" + sum, "not 64"},
		{"$2b$31$" + strings.Repeat("a", 53), "cost 31"},
		{"$2b$10$short", "form"},
		{"SCRAM-SHA-256$1:" + salt + "$" + sum + ":" + sum, "not between"},
		{"SCRAM-SHA-256$4096:" + salt + "$" + sum, "form"},
		{"SCRAM-SHA-256$4096:" + salt + "$" + salt + ":" + sum, "StoredKey has"},
	}
	for _, test := range tests {
		_, err := parseHash(test.hash)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %q", test.hash, err, test.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v gives a password away", test.hash, err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	for _, s := range []string{hash7, hash6, scramKeys, "$2b$10$" + strings.Repeat("a", 53), "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$KxUzyhb5nh7HGpBbMiBPT7v0pVUpvlZT27lDTwsQ8oU"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHash(s)
		if err != nil {
			return
		}
		if a, ok := h.(*argonHash); ok { // what parses must be affordable and print as it was meant
			again, err := parseHash(a.String())
			if err != nil || again.(*argonHash).String() != a.String() || a.memory > maxArgonMemory {
				t.Errorf("%q reads as %s (%v)", s, a, err)
			}
		}
	})
}
