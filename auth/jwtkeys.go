package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

const (
	minSecretBytes = 32 // of an HMAC key
	minRSABits     = 2048
	maxRSABits     = 8192
	maxKeys        = 64 // in one file
)

// KeyFormat says what a key file holds. There is no guessing between secrets and public keys: whoever could have a
// public key taken for a secret could sign with it.
type KeyFormat int

// The formats of key files.
const (
	PublicKeys KeyFormat = iota // PEM: public keys or certificates, one or more; or a JWKS (RFC 7517)
	Secret                      // the file's bytes, but for line ends at its end, are one HMAC key; at least 32 of them
)

// jwtKey is a key with the algorithms that it may be used for, and no other.
type jwtKey struct {
	id   string // kid; may be empty
	algs []string
	key  jwt.VerificationKey
}

type jwtKeys []jwtKey

// candidates returns the keys that a token with this header may be signed with. A kid chooses among the keys that have
// one; keys without fit any.
func (ks jwtKeys) candidates(alg, kid string) (set jwt.VerificationKeySet) {
	for _, k := range ks {
		if slices.Contains(k.algs, alg) && (k.id == kid || k.id == "" || kid == "") {
			set.Keys = append(set.Keys, k.key)
		}
	}
	return set
}

// parseKeys returns the parser of a format.
func parseKeys(format KeyFormat) func(path string, data []byte) (jwtKeys, error) {
	return func(path string, data []byte) (keys jwtKeys, err error) {
		switch {
		case format == Secret:
			keys, err = parseSecret(data)
		case strings.HasPrefix(strings.TrimSpace(string(data)), "{"):
			keys, err = parseJWKS(data)
		default:
			keys, err = parsePEM(data)
		}
		if err == nil && (len(keys) == 0 || len(keys) > maxKeys) {
			err = fmt.Errorf("%d usable keys, not between 1 and %d", len(keys), maxKeys)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return keys, nil
	}
}

var hmacAlgs = []string{"HS256", "HS384", "HS512"}

func parseSecret(data []byte) (jwtKeys, error) {
	secret := []byte(strings.TrimRight(string(data), "\r\n"))
	if strings.Contains(string(secret), "-----BEGIN") {
		return nil, errors.New("this is a PEM file, not a secret")
	}
	if len(secret) < minSecretBytes {
		return nil, fmt.Errorf("secret of %d bytes is shorter than %d", len(secret), minSecretBytes)
	}
	return jwtKeys{{algs: hmacAlgs, key: secret}}, nil
}

func parsePEM(data []byte) (keys jwtKeys, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		pub, err := parsePublic(block)
		if err != nil {
			return nil, err
		}
		k, err := newJWTKey("", pub)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if strings.TrimSpace(string(data)) != "" {
		return nil, errors.New("neither PEM nor JWKS all through")
	}
	return keys, nil
}

func parsePublic(block *pem.Block) (crypto.PublicKey, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return nil, fmt.Errorf("PEM block %q: give the public key only", block.Type)
	}
	return nil, fmt.Errorf("PEM block %q is not a public key", block.Type)
}

// newJWTKey binds a public key to the algorithms of its kind.
func newJWTKey(id string, pub crypto.PublicKey) (jwtKey, error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return jwtKey{}, fmt.Errorf("RSA key of %d bits is not between %d and %d", n, minRSABits, maxRSABits)
		}
		return jwtKey{id, []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, k}, nil
	case *ecdsa.PublicKey:
		alg, ok := map[elliptic.Curve]string{
			elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512",
		}[k.Curve]
		if !ok {
			return jwtKey{}, fmt.Errorf("curve %s has no algorithm", k.Params().Name)
		}
		return jwtKey{id, []string{alg}, k}, nil
	case ed25519.PublicKey:
		return jwtKey{id, []string{"EdDSA"}, k}, nil
	}
	return jwtKey{}, fmt.Errorf("keys of type %T are not supported", pub)
}

// jwk is one key of a JWKS (RFC 7517, RFC 7518 §6, RFC 8037 §2).
type jwk struct {
	Kty, Kid, Use, Alg, Crv string
	N, E                    string // RSA
	X, Y                    string // EC, OKP
	K                       string // oct
}

func parseJWKS(data []byte) (keys jwtKeys, err error) {
	var set struct{ Keys []jwk }
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("JWKS: %w", err)
	}
	for i := range set.Keys {
		j := &set.Keys[i]
		if !j.concernsUs() {
			continue
		}
		k, err := j.key()
		if err != nil {
			return nil, fmt.Errorf("JWKS key %d (kid %q): %w", i+1, j.Kid, err)
		}
		if k.algs, err = j.restrict(k.algs); err != nil {
			return nil, fmt.Errorf("JWKS key %d (kid %q): %w", i+1, j.Kid, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// concernsUs reports whether the key is for signatures and of a type known here; others are to be ignored (RFC 7517 §5).
func (j *jwk) concernsUs() bool {
	return j.Use != "enc" && slices.Contains([]string{"RSA", "EC", "OKP", "oct"}, j.Kty)
}

// restrict narrows the algorithms to the one that the key names.
func (j *jwk) restrict(algs []string) ([]string, error) {
	if j.Alg == "" {
		return algs, nil
	}
	if !slices.Contains(algs, j.Alg) {
		return nil, fmt.Errorf("algorithm %q does not go with its type", j.Alg)
	}
	return []string{j.Alg}, nil
}

func (j *jwk) key() (jwtKey, error) {
	switch j.Kty {
	case "RSA":
		return j.rsa()
	case "EC":
		return j.ec()
	case "OKP":
		x, err := decodeURL(j.X)
		if err != nil || j.Crv != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return jwtKey{}, errors.New("not an Ed25519 key of 32 bytes")
		}
		return newJWTKey(j.Kid, ed25519.PublicKey(x))
	}
	secret, err := decodeURL(j.K)
	if err != nil || len(secret) < minSecretBytes {
		return jwtKey{}, fmt.Errorf("secret is not base64url of at least %d bytes", minSecretBytes)
	}
	return jwtKey{j.Kid, hmacAlgs, secret}, nil
}

func (j *jwk) rsa() (jwtKey, error) {
	n, errN := decodeURL(j.N)
	e, errE := decodeURL(j.E)
	exp := new(big.Int).SetBytes(e)
	if errN != nil || errE != nil || exp.BitLen() > 31 || exp.Int64() < 3 || exp.Bit(0) == 0 {
		return jwtKey{}, errors.New("modulus or exponent is not usable")
	}
	return newJWTKey(j.Kid, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exp.Int64())})
}

func (j *jwk) ec() (jwtKey, error) {
	curve, ok := map[string]elliptic.Curve{
		"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521(),
	}[j.Crv]
	if !ok {
		return jwtKey{}, fmt.Errorf("curve %q has no algorithm", j.Crv)
	}
	x, errX := decodeURL(j.X)
	y, errY := decodeURL(j.Y)
	size := (curve.Params().BitSize + 7) / 8
	if errX != nil || errY != nil || len(x) != size || len(y) != size {
		return jwtKey{}, fmt.Errorf("coordinates are not base64url of %d bytes", size)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
	if err != nil {
		return jwtKey{}, err
	}
	return newJWTKey(j.Kid, pub)
}

func decodeURL(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}
