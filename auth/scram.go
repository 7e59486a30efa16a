package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// ScramMethod is the Authentication Method of SCRAM-SHA-256 (§4.12, RFC 7677).
const ScramMethod = "SCRAM-SHA-256"

// maxScramMessage bounds a message of the exchange, in bytes.
const maxScramMessage = 4096

// Scram is the server's side of SCRAM-SHA-256: the client proves that it knows the password, and the server that it
// knows the client's keys, without the password crossing the wire. Channel binding (SCRAM-SHA-256-PLUS) is refused.
//
// An unknown user is asked for a proof like a known one, with a salt that is always the same for the same name, and
// gets the answer of a wrong password. User names and passwords are compared as they are, without SASLprep.
type Scram struct {
	find func(user string) (k ScramKeys, known bool) // returns decoy keys for an unknown user
}

// NewScram makes the method out of a function that finds a user's keys; it is called by many goroutines at once and
// may block. From secret, which should survive restarts and be known to no one else, come the salts of unknown users;
// nil means a random one. Decoys use 15,000 iterations: users with another number are told apart from them.
func NewScram(lookup func(user string) (k ScramKeys, known bool), secret []byte) *Scram {
	if secret == nil {
		secret = newKeyer()[:]
	}
	return &Scram{find: func(user string) (ScramKeys, bool) {
		if k, ok := lookup(user); ok {
			return k, true
		}
		return decoyKeys(secret, user, scramSaltBytes, defaultScramIterations), false
	}}
}

// decoyKeys are keys that nobody has the password of, always with the same salt for the same user.
func decoyKeys(secret []byte, user string, saltBytes, iterations int) ScramKeys {
	salt := hmacSHA256(secret, "salt\x00"+user)
	for len(salt) < saltBytes {
		salt = append(salt, hmacSHA256(secret, string(salt))...)
	}
	k := ScramKeys{Iterations: iterations, Salt: salt[:saltBytes], StoredKey: make([]byte, 32), ServerKey: make([]byte, 32)}
	rand.Read(k.StoredKey) // never fails
	rand.Read(k.ServerKey)
	return k
}

// Method returns "SCRAM-SHA-256".
func (s *Scram) Method() string { return ScramMethod }

// Start begins an exchange. The user named in it must be the CONNECT's User Name, if that has one.
func (s *Scram) Start(r *broker.ConnectRequest) (broker.Exchange, error) {
	return &scramExchange{find: s.find, hasUser: r.HasUsername, user: r.Username, nonce: newNonce}, nil
}

// scramExchange is one run. Next is called twice: client-first, client-final.
type scramExchange struct {
	find    func(string) (ScramKeys, bool)
	nonce   func() string
	hasUser bool   // the CONNECT named a user
	user    string // that one, and then the one that the exchange names

	step        int
	keys        ScramKeys
	known       bool
	gs2         string // the header of client-first, which client-final repeats
	fullNonce   string
	firstBare   string // client-first without the header
	serverFirst string
	done        bool
}

// Next takes the client's message and returns the server's; see [broker.Exchange].
func (x *scramExchange) Next(_ context.Context, data []byte) (reply []byte, done bool, err error) {
	x.step++
	if len(data) > maxScramMessage || !utf8.Valid(data) {
		return nil, false, refuse("SCRAM: message is too long or not UTF-8")
	}
	switch x.step {
	case 1:
		reply, err = x.first(string(data))
	case 2:
		reply, err = x.final(string(data))
		x.done = err == nil
	default:
		err = refuse("SCRAM: the exchange is over")
	}
	return reply, x.done, err
}

// Grant returns who the client is, once the exchange is done.
func (x *scramExchange) Grant() broker.Grant {
	if !x.done {
		return broker.Grant{}
	}
	return broker.Grant{User: x.user}
}

// claimedUser is who the client says it is, for the throttle.
func (x *scramExchange) claimedUser() string { return x.user }

func (x *scramExchange) first(msg string) ([]byte, error) {
	m, err := parseClientFirst(msg)
	if err != nil {
		return nil, err
	}
	if x.hasUser && x.user != m.user {
		return nil, refuse("SCRAM: user %q in a CONNECT of user %q", m.user, x.user)
	}
	x.user, x.gs2, x.firstBare = m.user, m.gs2, m.bare
	x.keys, x.known = x.find(m.user)
	x.fullNonce = m.nonce + x.nonce()
	x.serverFirst = fmt.Sprintf("r=%s,s=%s,i=%d", x.fullNonce,
		base64.StdEncoding.EncodeToString(x.keys.Salt), x.keys.Iterations)
	return []byte(x.serverFirst), nil
}

func (x *scramExchange) final(msg string) ([]byte, error) {
	m, err := parseClientFinal(msg)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(m.nonce), []byte(x.fullNonce)) != 1 {
		return nil, refuse("SCRAM: the nonce of user %q is not the one of this exchange", x.user)
	}
	if m.binding != base64.StdEncoding.EncodeToString([]byte(x.gs2)) {
		return nil, refuse("SCRAM: user %q changed the header", x.user)
	}
	auth := x.firstBare + "," + x.serverFirst + "," + m.withoutProof
	right := x.proves(m.proof, auth)
	if !right || !x.known {
		return nil, refuse("SCRAM: no proof of user %q", x.user)
	}
	return []byte("v=" + base64.StdEncoding.EncodeToString(hmacSHA256(x.keys.ServerKey, auth))), nil
}

// proves recovers the client's key from the proof and compares its hash (RFC 5802 §3).
func (x *scramExchange) proves(proof []byte, auth string) bool {
	clientKey := make([]byte, sha256.Size)
	if subtle.XORBytes(clientKey, proof, hmacSHA256(x.keys.StoredKey, auth)) != sha256.Size {
		return false
	}
	stored := sha256.Sum256(clientKey)
	return hmac.Equal(stored[:], x.keys.StoredKey)
}

type clientFirst struct{ gs2, bare, user, nonce string }

// parseClientFirst reads `n,,n=user,r=nonce`.
func parseClientFirst(msg string) (m clientFirst, err error) {
	flag, rest, ok := strings.Cut(msg, ",")
	authz, bare, ok2 := strings.Cut(rest, ",")
	switch {
	case !ok || !ok2:
		return m, refuse("SCRAM: client-first has no header")
	case strings.HasPrefix(flag, "p="):
		return m, fmt.Errorf("%w: SCRAM: channel binding is not supported", mqtt.BadAuthenticationMethod)
	case flag != "n" && flag != "y":
		return m, refuse("SCRAM: client-first has an unknown flag")
	}
	m.gs2, m.bare = msg[:len(msg)-len(bare)], bare
	f := strings.Split(bare, ",")
	if len(f) < 2 || !strings.HasPrefix(f[0], "n=") { // m=, a mandatory extension, would stand here
		return m, refuse("SCRAM: client-first does not begin with the user")
	}
	if m.user, err = decodeName(f[0][2:]); err != nil {
		return m, err
	}
	if authz != "" && authz != "a="+f[0][2:] {
		return m, refuse("SCRAM: user %q asks to act as another", m.user)
	}
	m.nonce, err = parseNonce(f[1])
	return m, err
}

type clientFinal struct {
	binding, nonce, withoutProof string
	proof                        []byte
}

// parseClientFinal reads `c=binding,r=nonce,p=proof`.
func parseClientFinal(msg string) (m clientFinal, err error) {
	at := strings.LastIndex(msg, ",p=")
	if at < 0 {
		return m, refuse("SCRAM: client-final has no proof")
	}
	m.withoutProof = msg[:at]
	m.proof, err = base64.StdEncoding.Strict().DecodeString(msg[at+3:])
	if err != nil || len(m.proof) != sha256.Size {
		return m, refuse("SCRAM: the proof is not 32 bytes of base64")
	}
	f := strings.Split(m.withoutProof, ",")
	if len(f) < 2 || !strings.HasPrefix(f[0], "c=") {
		return m, refuse("SCRAM: client-final does not begin with the channel binding")
	}
	m.binding = f[0][2:]
	m.nonce, err = parseNonce(f[1])
	return m, err
}

func parseNonce(field string) (string, error) {
	nonce, ok := strings.CutPrefix(field, "r=")
	bad := strings.ContainsFunc(nonce, func(c rune) bool { return c <= ' ' || c > '~' })
	if !ok || nonce == "" || bad {
		return "", refuse("SCRAM: no nonce of printable characters")
	}
	return nonce, nil
}

// newNonce returns 24 characters, 144 bits.
func newNonce() string {
	var b [18]byte
	rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// decodeName undoes encodeName and refuses what it would never write.
func decodeName(s string) (string, error) {
	if strings.Count(s, "=") != strings.Count(s, "=2C")+strings.Count(s, "=3D") {
		return "", refuse("SCRAM: bad escape in the user name")
	}
	name := strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s)
	if err := checkText("user", name); err != nil {
		return "", refuse("SCRAM: %w", err)
	}
	return name, nil
}
