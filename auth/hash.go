package auth

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Bounds on what a password file may ask us to compute. A hostile file can make one login slow, not the machine.
const (
	maxArgonMemory = 256 << 10 // KiB
	maxArgonTime   = 16
	maxArgonLanes  = 16
	maxIterations  = 2_000_000 // PBKDF2
	maxBcryptCost  = 15
	minHashBytes   = 16
	maxHashBytes   = 128
	minSaltBytes   = 8
	maxSaltBytes   = 128
)

// hash is a stored password hash.
type hash interface {
	// check reports whether the password is the one that was hashed. It is slow on purpose.
	check(password []byte) bool
}

// Hash returns the argon2id hash of a password as a password file holds it, with a fresh salt, 19 MiB and two passes.
// It takes some ten milliseconds. An empty password is refused.
func Hash(password string) (string, error) {
	if password == "" {
		return "", errors.New("hash password: it is empty")
	}
	h := argonHash{memory: 19 << 10, time: 2, lanes: 1, salt: make([]byte, 16)}
	rand.Read(h.salt) // never fails
	h.sum = h.derive([]byte(password), 32)
	return h.String(), nil
}

// parseHash reads any kind of hash. Errors never quote the text: it may be a password in the wrong place.
func parseHash(s string) (hash, error) {
	switch {
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon(s)
	case strings.HasPrefix(s, "$7$"):
		return parsePBKDF2(s)
	case strings.HasPrefix(s, "$6$"):
		return parseSHA512(s)
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, scramPrefix):
		k, err := ParseScramKeys(s)
		return k, err
	}
	return nil, unknownHash(s)
}

func unknownHash(s string) error {
	if kind, _, ok := strings.Cut(strings.TrimPrefix(s, "$"), "$"); ok && s[0] == '$' && len(kind) <= 16 {
		return fmt.Errorf("unknown hash %q", "$"+kind+"$…")
	}
	return errors.New("not a password hash")
}

// argonHash is `$argon2id$v=19$m=KiB,t=passes,p=lanes$salt$sum`.
type argonHash struct {
	memory, time uint32
	lanes        uint8
	salt, sum    []byte
}

func parseArgon(s string) (hash, error) {
	f := strings.Split(s, "$")
	if len(f) != 6 || f[2] != "v=19" {
		return nil, errors.New(`argon2id hash is not of the form "$argon2id$v=19$m=…,t=…,p=…$salt$hash"`)
	}
	h := &argonHash{}
	if err := h.parseCost(f[3]); err != nil {
		return nil, err
	}
	var err error
	h.salt, h.sum, err = parseSaltAndSum(f[4], f[5])
	return h, err
}

func (h *argonHash) parseCost(s string) error {
	f := strings.Split(s, ",")
	if len(f) != 3 {
		return errors.New(`argon2id cost is not of the form "m=…,t=…,p=…"`)
	}
	m, errM := parseNumber(f[0], "m=", 8, maxArgonMemory)
	t, errT := parseNumber(f[1], "t=", 1, maxArgonTime)
	p, errP := parseNumber(f[2], "p=", 1, maxArgonLanes)
	h.memory, h.time, h.lanes = uint32(m), uint32(t), uint8(p)
	return errors.Join(errM, errT, errP)
}

func (h *argonHash) derive(password []byte, bytes int) []byte {
	return argon2.IDKey(password, h.salt, h.time, h.memory, h.lanes, uint32(bytes))
}

func (h *argonHash) check(password []byte) bool {
	return subtle.ConstantTimeCompare(h.derive(password, len(h.sum)), h.sum) == 1
}

func (h *argonHash) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.lanes,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.sum))
}

// pbkdf2Hash is Mosquitto's `$7$iterations$salt$sum`.
type pbkdf2Hash struct {
	iterations int
	salt, sum  []byte
}

func parsePBKDF2(s string) (hash, error) {
	f := strings.Split(s, "$")
	if len(f) != 5 {
		return nil, errors.New(`PBKDF2 hash is not of the form "$7$iterations$salt$hash"`)
	}
	iterations, err := parseNumber(f[2], "", 1, maxIterations)
	if err != nil {
		return nil, err
	}
	h := &pbkdf2Hash{iterations: iterations}
	h.salt, h.sum, err = parseSaltAndSHA512(f[3], f[4])
	return h, err
}

func (h *pbkdf2Hash) check(password []byte) bool {
	sum, err := pbkdf2.Key(sha512.New, string(password), h.salt, h.iterations, len(h.sum))
	return err == nil && subtle.ConstantTimeCompare(sum, h.sum) == 1
}

// sha512Hash is Mosquitto's old `$6$salt$sum`, not the `$6$` of crypt(3).
type sha512Hash struct{ salt, sum []byte }

func parseSHA512(s string) (hash, error) {
	f := strings.Split(s, "$")
	if len(f) != 4 {
		return nil, errors.New(`SHA-512 hash is not of the form "$6$salt$hash"`)
	}
	h := &sha512Hash{}
	var err error
	h.salt, h.sum, err = parseSaltAndSHA512(f[2], f[3])
	return h, err
}

func (h *sha512Hash) check(password []byte) bool {
	sum := sha512.New()
	sum.Write(password)
	sum.Write(h.salt)
	return subtle.ConstantTimeCompare(sum.Sum(nil), h.sum) == 1
}

// bcryptHash is a whole bcrypt string.
type bcryptHash []byte

func parseBcrypt(s string) (hash, error) {
	cost, err := bcrypt.Cost([]byte(s))
	if err != nil || len(s) != 60 {
		return nil, errors.New(`bcrypt hash is not of the form "$2b$cost$" and 53 characters`)
	}
	if cost > maxBcryptCost {
		return nil, fmt.Errorf("bcrypt cost %d is above %d", cost, maxBcryptCost)
	}
	return bcryptHash(s), nil
}

func (h bcryptHash) check(password []byte) bool {
	return bcrypt.CompareHashAndPassword(h, password) == nil
}

func parseSaltAndSum(salt, sum string) (rawSalt, rawSum []byte, err error) {
	if rawSalt, err = parseBase64("salt", salt, minSaltBytes, maxSaltBytes); err != nil {
		return nil, nil, err
	}
	if rawSum, err = parseBase64("hash", sum, minHashBytes, maxHashBytes); err != nil {
		return nil, nil, err
	}
	return rawSalt, rawSum, nil
}

// parseSaltAndSHA512 refuses a hash that lost its end: what is left would be right for more passwords.
func parseSaltAndSHA512(salt, sum string) (rawSalt, rawSum []byte, err error) {
	rawSalt, rawSum, err = parseSaltAndSum(salt, sum)
	if err == nil && len(rawSum) != sha512.Size {
		err = fmt.Errorf("hash has %d bytes, not %d", len(rawSum), sha512.Size)
	}
	return rawSalt, rawSum, err
}

// parseBase64 reads standard base64 with or without padding.
func parseBase64(what, s string, least, most int) ([]byte, error) {
	raw, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, fmt.Errorf("%s is not base64", what)
	}
	if len(raw) < least || len(raw) > most {
		return nil, fmt.Errorf("%s has %d bytes, not between %d and %d", what, len(raw), least, most)
	}
	return raw, nil
}

// parseNumber reads a decimal after a prefix.
func parseNumber(s, prefix string, least, most int) (int, error) {
	digits, ok := strings.CutPrefix(s, prefix)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < least || n > most {
		return 0, fmt.Errorf("cost parameter %snumber is not between %d and %d", prefix, least, most)
	}
	return n, nil
}
