package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/magpiemq/magpie/broker"
)

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// jwtAlgs are the algorithms that are known at all. None of them is "none".
var jwtAlgs = []string{
	"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// JWTConfig says how a [JWT] works.
type JWTConfig struct {
	KeyFile string
	Format  KeyFormat
	// FromUsername takes the token from the User Name instead of the Password.
	FromUsername bool
	// UserClaim names the claim that says who the client is. Zero means "sub".
	UserClaim string
	// Match holds what other claims must be: claim name to template, in which %c is the Client Identifier and %u the
	// User Name of the CONNECT.
	Match map[string]string
	// Audience and Issuer are required if they are not empty.
	Audience, Issuer string
	// Leeway is allowed between our clock and the issuer's. Zero means none.
	Leeway time.Duration
	// AllowEternal accepts tokens without exp, which no one can take back but by changing keys.
	AllowEternal bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// JWT authenticates by JSON Web Tokens (RFC 7519), signed by a key of a file. What does not look like a token is left
// to others; a token that is not good is refused.
//
// A claim "acl", or "topics", of the form {"pub":[filters],"sub":[filters]} becomes the client's Access: these topics
// and no others (see [NewTopics]). The connection ends when the token does. JWT is a [Reloader], safe for many
// goroutines.
type JWT struct {
	*source[jwtKeys]
	cfg    JWTConfig
	parser *jwt.Parser
}

// OpenJWT reads the keys. With an error all tokens are refused until the file is read again and good.
func OpenJWT(cfg JWTConfig) (*JWT, error) {
	if cfg.UserClaim == "" {
		cfg.UserClaim = "sub"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	src, err := openSource(cfg.KeyFile, parseKeys(cfg.Format))
	return &JWT{source: src, cfg: cfg, parser: newJWTParser(&cfg)}, err
}

func newJWTParser(cfg *JWTConfig) *jwt.Parser {
	opts := []jwt.ParserOption{
		jwt.WithValidMethods(jwtAlgs), jwt.WithStrictDecoding(), jwt.WithIssuedAt(),
		jwt.WithLeeway(cfg.Leeway), jwt.WithTimeFunc(cfg.Now),
	}
	if !cfg.AllowEternal {
		opts = append(opts, jwt.WithExpirationRequired())
	}
	if cfg.Audience != "" {
		opts = append(opts, jwt.WithAudience(cfg.Audience))
	}
	if cfg.Issuer != "" {
		opts = append(opts, jwt.WithIssuer(cfg.Issuer))
	}
	return jwt.NewParser(opts...)
}

// Authenticate verifies the token. It does not block.
func (j *JWT) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	text := string(r.Password)
	if j.cfg.FromUsername {
		text = r.Username
	}
	if !looksLikeToken(text) {
		return broker.Grant{}, broker.ErrNoOpinion
	}
	if len(text) > maxToken {
		return broker.Grant{}, refuse("token of %d bytes is longer than %d", len(text), maxToken)
	}
	claims := jwt.MapClaims{}
	if _, err := j.parser.ParseWithClaims(text, claims, j.keysFor); err != nil {
		return broker.Grant{}, refuse("%w", err)
	}
	g, err := j.grant(claims, r)
	if err != nil {
		return broker.Grant{}, refuse("token: %w", err)
	}
	return g, nil
}

// looksLikeToken reports whether s has three parts and begins as a JSON object in base64url does.
func looksLikeToken(s string) bool {
	return strings.HasPrefix(s, "eyJ") && strings.Count(s, ".") == 2
}

// keysFor finds the keys by a header that is not verified yet: it only chooses among keys bound to their algorithms.
func (j *JWT) keysFor(t *jwt.Token) (any, error) {
	if _, ok := t.Header["crit"]; ok {
		return nil, errors.New("token has critical extensions") // RFC 7515 §4.1.11
	}
	keys, err := j.value()
	if err != nil {
		return nil, err
	}
	kid, _ := t.Header["kid"].(string)
	set := keys.candidates(t.Method.Alg(), kid)
	if len(set.Keys) == 0 {
		return nil, fmt.Errorf("no key for algorithm %q and kid %q", t.Method.Alg(), kid)
	}
	return set, nil
}

// grant makes a grant of verified claims.
func (j *JWT) grant(claims jwt.MapClaims, r *broker.ConnectRequest) (g broker.Grant, err error) {
	user, _ := claims[j.cfg.UserClaim].(string)
	if err := checkText("claim "+j.cfg.UserClaim, user); err != nil {
		return g, err
	}
	for claim, template := range j.cfg.Match {
		want, ok := expand(template, r.ClientID, r.Username)
		if got, _ := claims[claim].(string); !ok || got != want {
			return g, fmt.Errorf("claim %s does not fit the CONNECT", claim)
		}
	}
	exp, err := claims.GetExpirationTime()
	if err != nil {
		return g, err
	}
	g.User = user
	if exp != nil {
		g.Expires = exp.Add(j.cfg.Leeway)
	}
	g.Access, err = accessClaim(claims)
	return g, err
}

// accessClaim returns nil if the token says nothing about topics.
func accessClaim(claims jwt.MapClaims) (broker.Authorizer, error) {
	for _, name := range []string{"acl", "topics"} {
		value, ok := claims[name]
		if !ok {
			continue
		}
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("claim %s: %w", name, err)
		}
		t, err := parseTopicLists(raw)
		if err != nil {
			return nil, fmt.Errorf("claim %s: %w", name, err)
		}
		return t, nil
	}
	return nil, nil
}
