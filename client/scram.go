package client

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The iterations that a server may ask for. Fewer would make the proof a present to whoever poses as the server; more would only keep us
// busy.
const (
	leastIterations = 4096
	mostIterations  = 2_000_000
)

// Scram returns the exchange of SCRAM-SHA-256 (RFC 7677): the client proves that it knows the password without sending it, and
// the server that it knows the user. Name and password are used as they are, without SASLprep.
func Scram(user, password string) Exchange {
	return &scram{user: user, password: password, nonce: rand.Text}
}

// scram is one run after the other.
type scram struct {
	user, password string
	nonce          func() string

	sent      string // our nonce
	firstBare string
	signature []byte // what the server must prove; nil until it can
}

const gs2Header = "n,," // no channel binding

var saslName = strings.NewReplacer("=", "=3D", ",", "=2C")

func (s *scram) Method() string { return "SCRAM-SHA-256" }

func (s *scram) Start() ([]byte, error) {
	s.sent, s.signature = s.nonce(), nil
	s.firstBare = "n=" + saslName.Replace(s.user) + ",r=" + s.sent
	return []byte(gs2Header + s.firstBare), nil
}

func (s *scram) Next(data []byte) ([]byte, error) {
	if s.signature != nil {
		return nil, errors.New("SCRAM: the server asks a second time")
	}
	serverFirst := string(data)
	nonce, salt, iterations, err := parseServerFirst(serverFirst)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(nonce, s.sent) || nonce == s.sent {
		return nil, errors.New("SCRAM: the server's nonce does not continue ours")
	}
	salted, err := pbkdf2.Key(sha256.New, s.password, salt, iterations, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("SCRAM: %w", err)
	}
	clientKey := hmacSHA256(salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	final := "c=" + base64.StdEncoding.EncodeToString([]byte(gs2Header)) + ",r=" + nonce
	message := s.firstBare + "," + serverFirst + "," + final
	proof := hmacSHA256(storedKey[:], message)
	subtle.XORBytes(proof, proof, clientKey)
	s.signature = hmacSHA256(hmacSHA256(salted, "Server Key"), message)
	return []byte(final + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

func (s *scram) Finish(data []byte) error {
	text, ok := strings.CutPrefix(string(data), "v=")
	got, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || s.signature == nil || !hmac.Equal(got, s.signature) {
		return errors.New("SCRAM: the server has not proved that it knows the password")
	}
	return nil
}

// parseServerFirst reads r=nonce,s=salt,i=iterations.
func parseServerFirst(text string) (nonce string, salt []byte, iterations int, err error) {
	parts := strings.Split(text, ",")
	if len(parts) < 3 || !strings.HasPrefix(parts[0], "r=") || !strings.HasPrefix(parts[1], "s=") || !strings.HasPrefix(parts[2], "i=") {
		return "", nil, 0, errors.New("SCRAM: the server's message is malformed")
	}
	salt, err = base64.StdEncoding.DecodeString(parts[1][2:])
	if err != nil || len(salt) == 0 {
		return "", nil, 0, errors.New("SCRAM: the server's salt is malformed")
	}
	iterations, err = strconv.Atoi(parts[2][2:])
	if err != nil || iterations < leastIterations || iterations > mostIterations {
		return "", nil, 0, fmt.Errorf("SCRAM: the server asks for %q iterations: must be %d to %d", parts[2][2:], leastIterations, mostIterations)
	}
	return parts[0][2:], salt, iterations, nil
}

func hmacSHA256(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}
