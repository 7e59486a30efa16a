package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

const testSecret = "0123456789abcdef0123456789abcdef"

// signers are private keys of every kind, made once.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	keys := map[string]crypto.Signer{"RS": r}
	for name, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		keys[name] = k
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	keys["EdDSA"] = ed
	return keys
})

func signerFor(alg string) crypto.Signer {
	if strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS") {
		return signers()["RS"]
	}
	return signers()[alg]
}

func publicPEM(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// token signs claims; header members replace the usual ones.
func token(t testing.TB, alg string, key any, claims jwt.MapClaims, header map[string]any) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.GetSigningMethod(alg), claims)
	for name, v := range header {
		tok.Header[name] = v
	}
	text, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var jwtNow = time.Unix(1_800_000_000, 0)

// goodClaims are claims that fit, with changes; nil removes one.
func goodClaims(changes jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"sub": "anna", "exp": jwtNow.Unix() + 60}
	for k, v := range changes {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func openJWT(t testing.TB, keys string, cfg JWTConfig) *JWT {
	t.Helper()
	cfg.KeyFile = write(t, keys)
	cfg.Now = func() time.Time { return jwtNow }
	j, err := OpenJWT(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJWTAlgorithms(t *testing.T) {
	var all strings.Builder
	for _, k := range signers() {
		all.WriteString(publicPEM(t, k.Public()))
	}
	public := openJWT(t, all.String(), JWTConfig{})
	secret := openJWT(t, testSecret+"\n", JWTConfig{Format: Secret})
	for _, alg := range jwtAlgs {
		key, by, other := any(signerFor(alg)), public, secret
		if strings.HasPrefix(alg, "HS") {
			key, by, other = []byte(testSecret), secret, public
		}
		text := token(t, alg, key, goodClaims(nil), nil)
		g, err := by.Authenticate(t.Context(), login("x", text))
		if err != nil || g.User != "anna" || !g.Expires.Equal(jwtNow.Add(time.Minute)) || g.Access != nil {
			t.Errorf("%s: got %+v, %v", alg, g, err)
		}
		_, err = other.Authenticate(t.Context(), login("x", text))
		wantCode(t, err, mqtt.BadUserNameOrPassword)
		last := text[len(text)-10:]
		_, err = by.Authenticate(t.Context(), login("x", strings.TrimSuffix(text, last)+"AAAAAAAAAA"))
		wantCode(t, err, mqtt.BadUserNameOrPassword)
	}
}

func TestJWTClaims(t *testing.T) {
	cfg := JWTConfig{
		Format: Secret, Audience: "mqtt", Issuer: "us", Leeway: 5 * time.Second,
		Match: map[string]string{"client_id": "%c", "login": "%u"},
	}
	j := openJWT(t, testSecret, cfg)
	fit := func(changes jwt.MapClaims) jwt.MapClaims {
		c := goodClaims(jwt.MapClaims{"aud": "mqtt", "iss": "us", "client_id": "c1", "login": "bob"})
		for k, v := range changes {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	now := jwtNow.Unix()
	tests := []struct {
		name    string
		changes jwt.MapClaims
		want    mqtt.ReasonCode
	}{
		{"fits", nil, mqtt.Success},
		{"several audiences", jwt.MapClaims{"aud": []string{"web", "mqtt"}}, mqtt.Success},
		{"other audience", jwt.MapClaims{"aud": "web"}, mqtt.BadUserNameOrPassword},
		{"no audience", jwt.MapClaims{"aud": nil}, mqtt.BadUserNameOrPassword},
		{"other issuer", jwt.MapClaims{"iss": "them"}, mqtt.BadUserNameOrPassword},
		{"no issuer", jwt.MapClaims{"iss": nil}, mqtt.BadUserNameOrPassword},
		{"expired within leeway", jwt.MapClaims{"exp": now - 4}, mqtt.Success},
		{"expired", jwt.MapClaims{"exp": now - 6}, mqtt.BadUserNameOrPassword},
		{"no end", jwt.MapClaims{"exp": nil}, mqtt.BadUserNameOrPassword},
		{"end is text", jwt.MapClaims{"exp": "tomorrow"}, mqtt.BadUserNameOrPassword},
		{"not yet, within leeway", jwt.MapClaims{"nbf": now + 4}, mqtt.Success},
		{"not yet", jwt.MapClaims{"nbf": now + 6}, mqtt.BadUserNameOrPassword},
		{"issued in the future", jwt.MapClaims{"iat": now + 6}, mqtt.BadUserNameOrPassword},
		{"other client", jwt.MapClaims{"client_id": "c2"}, mqtt.BadUserNameOrPassword},
		{"no client", jwt.MapClaims{"client_id": nil}, mqtt.BadUserNameOrPassword},
		{"client is a list", jwt.MapClaims{"client_id": []string{"c1"}}, mqtt.BadUserNameOrPassword},
		{"other login", jwt.MapClaims{"login": "anna"}, mqtt.BadUserNameOrPassword},
		{"no subject", jwt.MapClaims{"sub": nil}, mqtt.BadUserNameOrPassword},
		{"empty subject", jwt.MapClaims{"sub": ""}, mqtt.BadUserNameOrPassword},
		{"subject is a number", jwt.MapClaims{"sub": 7}, mqtt.BadUserNameOrPassword},
		{"control character", jwt.MapClaims{"sub": "a\x00"}, mqtt.BadUserNameOrPassword},
		{"bad filter", jwt.MapClaims{"acl": map[string]any{"pub": []string{"a/#/b"}}}, mqtt.BadUserNameOrPassword},
		{"acl of another form", jwt.MapClaims{"acl": []string{"a"}}, mqtt.BadUserNameOrPassword},
		{"acl with more", jwt.MapClaims{"acl": map[string]any{"pub": []string{"a"}, "deny": []string{"b"}}}, mqtt.BadUserNameOrPassword},
		{"acl null", jwt.MapClaims{"acl": json.RawMessage("null")}, mqtt.BadUserNameOrPassword},
		{"empty acl", jwt.MapClaims{"acl": map[string]any{}}, mqtt.Success},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g, err := j.Authenticate(t.Context(), login("bob", token(t, "HS256", []byte(testSecret), fit(test.changes), nil)))
			wantCode(t, err, test.want)
			if err != nil && (g.User != "" || g.Access != nil) {
				t.Errorf("refused, but granted %+v", g)
			}
		})
	}
	assigned := login("bob", token(t, "HS256", []byte(testSecret), fit(jwt.MapClaims{"client_id": ""}), nil))
	assigned.ClientID = ""
	_, err := j.Authenticate(t.Context(), assigned)
	wantCode(t, err, mqtt.BadUserNameOrPassword)
}

func TestJWTAccess(t *testing.T) {
	j := openJWT(t, testSecret, JWTConfig{Format: Secret, UserClaim: "name", AllowEternal: true, FromUsername: true})
	for _, claim := range []string{"acl", "topics"} {
		claims := jwt.MapClaims{"name": "anna", claim: map[string]any{"pub": []string{"up/%c"}, "sub": []string{"down/%u/#"}}}
		g, err := j.Authenticate(t.Context(), login(token(t, "HS512", []byte(testSecret), claims, nil), ""))
		if err != nil || g.User != "anna" || !g.Expires.IsZero() {
			t.Fatalf("%+v, %v", g, err)
		}
		for _, test := range []struct {
			act   broker.Action
			topic string
			want  mqtt.ReasonCode
		}{
			{w, "up/c1", mqtt.Success}, {w, "up/c2", mqtt.NotAuthorized}, {r, "down/anna/x", mqtt.Success},
			{s, "down/anna/#", mqtt.Success}, {s, "down/bob/#", mqtt.NotAuthorized}, {w, "other", mqtt.NotAuthorized},
		} {
			wantCode(t, g.Access.Authorize(client("c1", "anna"), test.act, test.topic), test.want)
		}
	}
}

// Tokens that were forged in every way that is in the books.
func TestJWTForged(t *testing.T) {
	rsaPEM := publicPEM(t, signers()["RS"].Public())
	j := openJWT(t, rsaPEM, JWTConfig{})
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	payload := b64(`{"sub":"admin","exp":1900000000}`)
	good := token(t, "RS256", signers()["RS"], goodClaims(nil), nil)
	part := strings.Split(good, ".")
	for name, text := range map[string]string{
		"none":                  b64(`{"alg":"none"}`) + "." + payload + ".",
		"None":                  b64(`{"alg":"None"}`) + "." + payload + ".",
		"no algorithm":          b64(`{"typ":"JWT"}`) + "." + payload + "." + part[2],
		"algorithm is a number": b64(`{"alg":5}`) + "." + payload + "." + part[2],
		"public key as secret":  token(t, "HS256", []byte(rsaPEM), goodClaims(nil), nil),
		"other key":             token(t, "ES256", signers()["ES256"], goodClaims(nil), nil),
		"other payload":         part[0] + "." + payload + "." + part[2],
		"no signature":          part[0] + "." + part[1] + ".",
		"signature not base64":  part[0] + "." + part[1] + ".!!!!",
		"payload not JSON":      part[0] + "." + b64("x") + "." + part[2],
		"header not JSON":       "eyJx." + part[1] + "." + part[2],
		"critical extension":    token(t, "RS256", signers()["RS"], goodClaims(nil), map[string]any{"crit": []string{"b64"}, "b64": false}),
		"too long":              token(t, "RS256", signers()["RS"], goodClaims(jwt.MapClaims{"x": strings.Repeat("a", maxToken)}), nil),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := j.Authenticate(t.Context(), login("admin", text))
			wantCode(t, err, mqtt.BadUserNameOrPassword)
		})
	}
	for _, password := range []string{"", "secret", "a.b.c", "eyJ.x", "eyJ.a.b.c"} {
		if _, err := j.Authenticate(t.Context(), login("anna", password)); err != broker.ErrNoOpinion {
			t.Errorf("%q: %v, not left to others", password, err)
		}
	}
}

// jwkOf returns a public key as JWKS has it.
func jwkOf(t testing.TB, kid string, pub crypto.PublicKey) map[string]string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return map[string]string{"kty": "RSA", "kid": kid, "use": "sig", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		raw, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := (len(raw) - 1) / 2
		return map[string]string{"kty": "EC", "kid": kid, "crv": k.Params().Name, "x": b64(raw[1 : 1+half]), "y": b64(raw[1+half:])}
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": b64(k)}
	}
	t.Fatalf("no JWK for %T", pub)
	return nil
}

func jwks(t testing.TB, keys ...map[string]string) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestJWKS(t *testing.T) {
	var keys []map[string]string
	for name, k := range signers() {
		keys = append(keys, jwkOf(t, "key-"+name, k.Public()))
	}
	narrow := jwkOf(t, "narrow", signers()["RS"].Public())
	narrow["alg"] = "PS384"
	keys = append(keys, narrow,
		map[string]string{"kty": "oct", "kid": "shared", "k": base64.RawURLEncoding.EncodeToString([]byte(testSecret))},
		map[string]string{"kty": "RSA", "kid": "enc", "use": "enc", "n": "!"}, map[string]string{"kty": "future"})
	j := openJWT(t, jwks(t, keys...), JWTConfig{})
	tests := []struct {
		alg, kid string
		want     mqtt.ReasonCode
	}{
		{"RS256", "key-RS", mqtt.Success}, {"PS512", "key-RS", mqtt.Success}, {"ES256", "key-ES256", mqtt.Success},
		{"ES384", "key-ES384", mqtt.Success}, {"ES512", "key-ES512", mqtt.Success}, {"EdDSA", "key-EdDSA", mqtt.Success},
		{"EdDSA", "", mqtt.Success}, {"HS256", "shared", mqtt.Success},
		{"PS384", "narrow", mqtt.Success}, {"RS256", "narrow", mqtt.BadUserNameOrPassword},
		{"ES256", "key-RS", mqtt.BadUserNameOrPassword}, {"RS256", "enc", mqtt.BadUserNameOrPassword}, {"RS256", "gone", mqtt.BadUserNameOrPassword},
	}
	for _, test := range tests {
		key := any(signerFor(test.alg))
		if test.alg == "HS256" {
			key = []byte(testSecret)
		}
		header := map[string]any{"kid": test.kid}
		_, err := j.Authenticate(t.Context(), login("x", token(t, test.alg, key, goodClaims(nil), header)))
		if got := codeOf(err); got != test.want {
			t.Errorf("%s with kid %q: %v", test.alg, test.kid, err)
		}
	}
}

func TestKeysRefused(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(signers()["ES256"])
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	offCurve := jwkOf(t, "x", signers()["ES256"].Public())
	offCurve["y"] = offCurve["x"]
	wrongAlg := jwkOf(t, "x", signers()["RS"].Public())
	wrongAlg["alg"] = "HS256"
	evenE := jwkOf(t, "x", signers()["RS"].Public())
	evenE["e"] = "Ag"
	goodPEM := publicPEM(t, signers()["RS"].Public())
	tests := []struct {
		name   string
		format KeyFormat
		text   string
		want   string
	}{
		{"empty", PublicKeys, "", "0 usable keys"},
		{"short secret", Secret, "short", "shorter than 32"},
		{"PEM as secret", Secret, goodPEM, "PEM file, not a secret"},
		{"secret as PEM", PublicKeys, testSecret, "neither PEM nor JWKS"},
		{"rest behind PEM", PublicKeys, goodPEM + "x", "neither PEM nor JWKS"},
		{"private key", PublicKeys, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), "public key only"},
		{"other PEM", PublicKeys, string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: private})), "not a public key"},
		{"weak RSA", PublicKeys, publicPEM(t, weak.Public()), "1024 bits"},
		{"P-224", PublicKeys, publicPEM(t, p224.Public()), "P-224"},
		{"broken JWKS", PublicKeys, `{"keys":[`, "JWKS"},
		{"empty JWKS", PublicKeys, `{"keys":[]}`, "0 usable keys"},
		{"off the curve", PublicKeys, jwks(t, offCurve), "kid \"x\""},
		{"wrong algorithm", PublicKeys, jwks(t, wrongAlg), "does not go with"},
		{"even exponent", PublicKeys, jwks(t, evenE), "exponent"},
		{"short JWKS secret", PublicKeys, jwks(t, map[string]string{"kty": "oct", "k": "AAAA"}), "at least 32"},
		{"Ed448", PublicKeys, jwks(t, map[string]string{"kty": "OKP", "crv": "Ed448", "x": "AAAA"}), "Ed25519"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, test.text)
			j, err := OpenJWT(JWTConfig{KeyFile: path, Format: test.format})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), path) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			_, err = j.Authenticate(t.Context(), login("x", token(t, "HS256", []byte(testSecret), goodClaims(nil), nil)))
			wantCode(t, err, mqtt.BadUserNameOrPassword)
		})
	}
}

func TestJWTKeysReload(t *testing.T) {
	j := openJWT(t, publicPEM(t, signers()["ES256"].Public()), JWTConfig{})
	old := login("x", token(t, "ES256", signers()["ES256"], goodClaims(nil), nil))
	fresh := login("x", token(t, "EdDSA", signers()["EdDSA"], goodClaims(nil), nil))
	check := func(oldWant, freshWant mqtt.ReasonCode) {
		t.Helper()
		_, err := j.Authenticate(t.Context(), old)
		wantCode(t, err, oldWant)
		_, err = j.Authenticate(t.Context(), fresh)
		wantCode(t, err, freshWant)
	}
	check(mqtt.Success, mqtt.BadUserNameOrPassword)
	rewrite(t, j.Path(), "broken")
	if changed, err := j.Poll(); changed || err == nil {
		t.Errorf("broken keys: %v, %v", changed, err)
	}
	check(mqtt.Success, mqtt.BadUserNameOrPassword)
	rewrite(t, j.Path(), jwks(t, jwkOf(t, "new", signers()["EdDSA"].Public())))
	if changed, err := j.Poll(); !changed || err != nil {
		t.Errorf("new keys: %v, %v", changed, err)
	}
	check(mqtt.BadUserNameOrPassword, mqtt.Success)
}

// Nothing that was not signed by us gets in.
func FuzzJWT(f *testing.F) {
	j := openJWT(f, testSecret, JWTConfig{Format: Secret})
	good := token(f, "HS256", []byte(testSecret), goodClaims(nil), nil)
	f.Add(good + "x")
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.")
	f.Add("eyJhbGciOiJIUzI1NiJ9..")
	f.Fuzz(func(t *testing.T, text string) {
		if g, err := j.Authenticate(t.Context(), login("x", text)); err == nil && text != good {
			t.Errorf("%q became %q", text, g.User)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte(publicPEM(f, signers()["RS"].Public())))
	f.Add([]byte(jwks(f, jwkOf(f, "a", signers()["ES384"].Public()))))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys(PublicKeys)("f", data)
		if err == nil && len(keys) == 0 {
			t.Errorf("%q: no keys and no error", data)
		}
		for _, k := range keys {
			for _, alg := range k.algs {
				if _, secret := k.key.([]byte); secret != strings.HasPrefix(alg, "HS") {
					t.Errorf("%q: a %T for %s", data, k.key, alg)
				}
			}
		}
	})
}
