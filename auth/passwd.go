package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/broker"
)

// PasswordConfig says how a [PasswordFile] works.
type PasswordConfig struct {
	// MaxConcurrent bounds how many hashes are computed at once, so that a storm of logins cannot take the whole
	// machine; the others wait until their context ends. Zero means the number of processors.
	MaxConcurrent int
	// CacheTTL is how long a verified password is remembered, so that a reconnecting fleet costs little. Only right
	// passwords are remembered, under a key that no other process knows; a changed hash is noticed at once. Zero means
	// one minute, a negative value no memory.
	CacheTTL time.Duration
	// CacheSize bounds how many verified passwords are remembered. Zero means 10,000.
	CacheSize int
	// PassUnknown gives ErrNoOpinion for an unknown user, after the same work, so that the next of a [Chain] may know
	// it. The chain's answer is the same for both. Zero refuses unknown users.
	PassUnknown bool
}

func (c PasswordConfig) withDefaults() PasswordConfig {
	if c.MaxConcurrent <= 0 {
		c.MaxConcurrent = runtime.NumCPU()
	}
	if c.CacheTTL == 0 {
		c.CacheTTL = time.Minute
	}
	if c.CacheSize <= 0 {
		c.CacheSize = 10_000
	}
	return c
}

// PasswordFile authenticates by user name and password from a file; the package documentation has its format. A client
// without user name is left to others. It is a [Reloader], safe for many goroutines.
type PasswordFile struct {
	*source[*passwords]
	cfg      PasswordConfig
	gate     gate
	verified *cache[struct{}]
	keys     *keyer
	work     atomic.Int64 // hashes computed; tests count them instead of measuring time
}

// OpenPasswords reads a password file. With an error the file denies everybody until it is read again and good.
func OpenPasswords(path string, cfg PasswordConfig) (*PasswordFile, error) {
	cfg = cfg.withDefaults()
	src, err := openSource(path, parsePasswords)
	return &PasswordFile{
		source:   src,
		cfg:      cfg,
		gate:     newGate(cfg.MaxConcurrent),
		verified: newCache[struct{}](cfg.CacheSize, time.Now),
		keys:     newKeyer(),
	}, err
}

// Authenticate checks the user's password. It computes a hash, known user or not, and blocks while others do.
func (f *PasswordFile) Authenticate(ctx context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if !r.HasUsername {
		return broker.Grant{}, broker.ErrNoOpinion
	}
	p, err := f.value()
	if err != nil {
		return broker.Grant{}, refuse("no usable password file: %w", err)
	}
	e, known := p.find(f.keys, r.Username)
	right, err := f.check(ctx, e, r)
	switch {
	case err != nil:
		return broker.Grant{}, err
	case !known && f.cfg.PassUnknown:
		return broker.Grant{}, broker.ErrNoOpinion
	case !known:
		return broker.Grant{}, refuse("unknown user %q", r.Username)
	case !right || !r.HasPassword:
		return broker.Grant{}, refuse("wrong password for user %q", r.Username)
	}
	return broker.Grant{User: r.Username}, nil
}

// check compares the password with the entry's hash. For an unknown user the entry is a decoy, and the result is of no
// use but costs the same.
func (f *PasswordFile) check(ctx context.Context, e *entry, r *broker.ConnectRequest) (bool, error) {
	key := f.keys.key([]byte(r.Username), r.Password, []byte(e.text))
	if _, ok := f.verified.get(key); ok {
		return true, nil
	}
	if err := f.gate.enter(ctx); err != nil {
		return false, err
	}
	defer f.gate.leave()
	f.work.Add(1)
	right := e.hash.check(r.Password)
	if right && e.user == r.Username && f.cfg.CacheTTL > 0 {
		f.verified.put(key, struct{}{}, time.Now().Add(f.cfg.CacheTTL))
	}
	return right, nil
}

// Scram returns the authentication method SCRAM-SHA-256 for the users of the file who have SCRAM keys.
func (f *PasswordFile) Scram() broker.EnhancedAuthenticator {
	return &Scram{find: func(user string) (ScramKeys, bool) {
		p, err := f.value()
		if err != nil {
			return decoyKeys(f.keys[:], user, scramSaltBytes, defaultScramIterations), false
		}
		return p.findScram(user)
	}}
}

// passwords is the content of a password file.
type passwords struct {
	entries []*entry
	byUser  map[string]*entry
	scram   *ScramKeys // of the first user who has any: decoys look like it
}

type entry struct {
	user  string
	line  int
	text  string // the hash as it stands in the file
	hash  hash
	scram *ScramKeys // nil if there are none
}

// find returns the user's entry, or, for an unknown user, another one chosen by the name: checking against it costs
// what checking a known user costs, whatever kinds of hashes the file mixes.
func (p *passwords) find(k *keyer, user string) (e *entry, known bool) {
	if e, ok := p.byUser[user]; ok {
		return e, true
	}
	digest := k.key([]byte("decoy"), []byte(user))
	return p.entries[binary.BigEndian.Uint64(digest[:])%uint64(len(p.entries))], false
}

func (p *passwords) findScram(user string) (k ScramKeys, known bool) {
	if e, ok := p.byUser[user]; ok && e.scram != nil {
		return *e.scram, true
	}
	saltBytes, iterations := scramSaltBytes, defaultScramIterations
	if p.scram != nil {
		saltBytes, iterations = len(p.scram.Salt), p.scram.Iterations
	}
	// The secret comes from the file, so that a decoy keeps its salt across restarts as a real user does.
	secret := sha256.Sum256([]byte("decoy\x00" + p.entries[0].text))
	return decoyKeys(secret[:], user, saltBytes, iterations), false
}

// passwdHint says how to mend a password file.
const passwdHint = "write it with: magpie passwd"

func parsePasswords(path string, data []byte) (*passwords, error) {
	p := &passwords{byUser: map[string]*entry{}}
	for line, text := range lines(data) {
		if text == "" || text[0] == '#' {
			continue
		}
		e, err := parseEntry(text)
		if err == nil {
			err = p.add(e, line)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w; %s %s USER", path, line, err, passwdHint, path)
		}
	}
	if len(p.entries) == 0 {
		return nil, fmt.Errorf("%s: no users, so nobody may connect; %s %s USER", path, passwdHint, path)
	}
	return p, nil
}

func (p *passwords) add(e *entry, line int) error {
	if first, ok := p.byUser[e.user]; ok {
		return fmt.Errorf("user %q is already on line %d", e.user, first.line)
	}
	e.line = line
	p.byUser[e.user] = e
	p.entries = append(p.entries, e)
	if p.scram == nil {
		p.scram = e.scram
	}
	return nil
}

func parseEntry(text string) (*entry, error) {
	user, rest, ok := strings.Cut(text, ":")
	if !ok {
		return nil, errors.New(`no colon between user and hash`)
	}
	if err := checkText("user", user); err != nil {
		return nil, err
	}
	first, second := rest, ""
	if !strings.HasPrefix(rest, scramPrefix) {
		first, second, _ = strings.Cut(rest, ":")
	}
	e := &entry{user: user, text: first}
	var err error
	if e.hash, err = parseHash(first); err != nil {
		return nil, fmt.Errorf("user %q: %w", user, err)
	}
	if only, ok := e.hash.(ScramKeys); ok {
		e.scram = &only
	}
	if second != "" {
		k, err := ParseScramKeys(second)
		if err != nil {
			return nil, fmt.Errorf("user %q: %w", user, err)
		}
		e.scram = &k
	}
	return e, nil
}

// lines yields the lines of a text file with their numbers from 1, without line ends and a byte order mark.
func lines(data []byte) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		data = bytes.TrimPrefix(data, []byte("\ufeff"))
		for n := 1; len(data) > 0; n++ {
			var line []byte
			line, data, _ = bytes.Cut(data, []byte("\n"))
			if !yield(n, string(bytes.TrimSuffix(line, []byte("\r")))) {
				return
			}
		}
	}
}
