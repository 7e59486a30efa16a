package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ScramClient is the client's side of one exchange of SCRAM-SHA-256: make a new one for every connection. It is used
// by one goroutine.
type ScramClient struct {
	user, password string
	nonce          func() string
	step           int
	firstBare      string
	fullNonce      string
	serverSig      []byte
}

// NewScramClient makes the client's side for a user and password, both taken as they are (see [NewScramKeys]).
func NewScramClient(user, password string) *ScramClient {
	return &ScramClient{user: user, password: password, nonce: newNonce}
}

// Method returns "SCRAM-SHA-256".
func (c *ScramClient) Method() string { return ScramMethod }

// Next takes the server's Authentication Data, none at first, and returns what to send: in CONNECT, then in an AUTH.
// With the data of the CONNACK (or of the AUTH with Success) it checks that the server knows the user's keys and
// returns done. An error means that the server must not be trusted. The second call computes for some milliseconds.
func (c *ScramClient) Next(data []byte) (reply []byte, done bool, err error) {
	c.step++
	switch c.step {
	case 1:
		reply, err = c.first()
	case 2:
		reply, err = c.final(string(data))
	case 3:
		done, err = true, c.verify(string(data))
	default:
		err = errors.New("exchange is over")
	}
	if err != nil {
		return nil, false, fmt.Errorf("SCRAM: %w", err)
	}
	return reply, done, nil
}

func (c *ScramClient) first() ([]byte, error) {
	if err := errors.Join(checkText("user", c.user), checkText("password", c.password)); err != nil {
		return nil, err
	}
	c.fullNonce = c.nonce()
	c.firstBare = "n=" + encodeName(c.user) + ",r=" + c.fullNonce
	return []byte("n,," + c.firstBare), nil
}

func (c *ScramClient) final(serverFirst string) ([]byte, error) {
	nonce, salt, iterations, err := parseServerFirst(serverFirst)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(nonce, c.fullNonce) || len(nonce) == len(c.fullNonce) {
		return nil, errors.New("server does not continue our nonce")
	}
	withoutProof := "c=biws,r=" + nonce // biws is base64 of "n,,"
	auth := c.firstBare + "," + serverFirst + "," + withoutProof
	salted := saltPassword(c.password, salt, iterations)
	proof := hmacSHA256(salted, "Client Key")
	stored := sha256.Sum256(proof)
	subtle.XORBytes(proof, proof, hmacSHA256(stored[:], auth))
	c.serverSig = hmacSHA256(hmacSHA256(salted, "Server Key"), auth)
	return []byte(withoutProof + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

func (c *ScramClient) verify(serverFinal string) error {
	text, ok := strings.CutPrefix(serverFinal, "v=")
	text, _, _ = strings.Cut(text, ",")
	sig, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || !hmac.Equal(sig, c.serverSig) {
		return errors.New("server does not prove that it knows the user")
	}
	return nil
}

// parseServerFirst reads `r=nonce,s=salt,i=iterations`. The bound on iterations keeps a false server from holding a
// client up for hours.
func parseServerFirst(msg string) (nonce string, salt []byte, iterations int, err error) {
	f := strings.Split(msg, ",")
	if len(msg) > maxScramMessage || len(f) < 3 || !strings.HasPrefix(f[1], "s=") || !strings.HasPrefix(f[2], "i=") {
		return "", nil, 0, errors.New("server-first is malformed")
	}
	if nonce, err = parseNonce(f[0]); err != nil {
		return "", nil, 0, errors.New("server-first has no nonce")
	}
	if salt, err = base64.StdEncoding.DecodeString(f[1][2:]); err != nil || len(salt) == 0 {
		return "", nil, 0, errors.New("server-first has no salt")
	}
	iterations, err = strconv.Atoi(f[2][2:])
	if err != nil || iterations < minScramIterations || iterations > maxIterations {
		return "", nil, 0, fmt.Errorf("server asks for iterations outside %d to %d", minScramIterations, maxIterations)
	}
	return nonce, salt, iterations, nil
}

func encodeName(s string) string {
	return strings.NewReplacer(",", "=2C", "=", "=3D").Replace(s)
}
