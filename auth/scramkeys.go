package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// minScramIterations is the least that RFC 7677 §4 allows.
	minScramIterations = 4096
	// defaultScramIterations is what we write: some milliseconds on a computer, bearable on a small device.
	defaultScramIterations = 15_000

	scramSaltBytes = 16
	scramPrefix    = "SCRAM-SHA-256$"
)

// ScramKeys is what a server needs to know about a password for SCRAM-SHA-256 (RFC 5802 §3). It does not give the
// password away, but a thief may guess passwords with it. Slices are not to be changed.
type ScramKeys struct {
	Iterations int // at least 4096
	Salt       []byte
	StoredKey  []byte // 32 bytes
	ServerKey  []byte // 32 bytes
}

// NewScramKeys derives the keys of a password under a fresh salt. Zero iterations mean 15,000; fewer than 4096 are
// refused. The password is taken as it is, in UTF-8 without control characters: it is not normalised (no SASLprep),
// so a client must send it as it was set.
func NewScramKeys(password string, iterations int) (ScramKeys, error) {
	if iterations == 0 {
		iterations = defaultScramIterations
	}
	if iterations < minScramIterations || iterations > maxIterations {
		return ScramKeys{}, fmt.Errorf("make SCRAM keys: %d iterations are not between %d and %d",
			iterations, minScramIterations, maxIterations)
	}
	if err := checkText("password", password); err != nil {
		return ScramKeys{}, fmt.Errorf("make SCRAM keys: %w", err)
	}
	salt := make([]byte, scramSaltBytes)
	rand.Read(salt) // never fails
	return deriveScramKeys(password, salt, iterations), nil
}

func deriveScramKeys(password string, salt []byte, iterations int) ScramKeys {
	salted := saltPassword(password, salt, iterations)
	stored := sha256.Sum256(hmacSHA256(salted, "Client Key"))
	return ScramKeys{iterations, salt, stored[:], hmacSHA256(salted, "Server Key")}
}

// saltPassword is the function Hi of RFC 5802 §2.2.
func saltPassword(password string, salt []byte, iterations int) []byte {
	key, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		panic("auth: PBKDF2 with SHA-256: " + err.Error()) // only for key lengths that we never ask for
	}
	return key
}

func hmacSHA256(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// ParseScramKeys reads what String writes.
func ParseScramKeys(s string) (ScramKeys, error) {
	var k ScramKeys
	rest, ok := strings.CutPrefix(s, scramPrefix)
	cost, keys, ok2 := strings.Cut(rest, "$")
	iterations, salt, ok3 := strings.Cut(cost, ":")
	stored, server, ok4 := strings.Cut(keys, ":")
	if !ok || !ok2 || !ok3 || !ok4 {
		return k, errors.New(`SCRAM keys are not of the form "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"`)
	}
	var errs [4]error
	k.Iterations, errs[0] = parseNumber(iterations, "", minScramIterations, maxIterations)
	k.Salt, errs[1] = parseBase64("salt", salt, minSaltBytes, maxSaltBytes)
	k.StoredKey, errs[2] = parseBase64("StoredKey", stored, sha256.Size, sha256.Size)
	k.ServerKey, errs[3] = parseBase64("ServerKey", server, sha256.Size, sha256.Size)
	if err := errors.Join(errs[:]...); err != nil {
		return ScramKeys{}, err
	}
	return k, nil
}

// String returns the keys as a password file holds them.
func (k ScramKeys) String() string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s%d:%s$%s:%s", scramPrefix, k.Iterations, b64(k.Salt), b64(k.StoredKey), b64(k.ServerKey))
}

// check serves plain passwords of users who have nothing but SCRAM keys.
func (k ScramKeys) check(password []byte) bool {
	got := deriveScramKeys(string(password), k.Salt, k.Iterations)
	return subtle.ConstantTimeCompare(got.StoredKey, k.StoredKey) == 1
}

// checkText refuses what no one types on purpose: control characters, broken UTF-8, nothing at all.
func checkText(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not well-formed UTF-8", what)
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%s contains a control character", what)
	}
	return nil
}
