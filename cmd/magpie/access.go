package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/mqtt"
)

// access decides who may connect and do what. The broker has one for its whole life; the rules in it are replaced when the
// configuration is read again. It is the broker's Authenticator and Authorizer.
type access struct {
	log      *slog.Logger
	throttle *auth.Throttle // outlives the rules: a reload forgives nobody
	current  atomic.Pointer[rules]
}

// rules are what one configuration says about access.
type rules struct {
	login      map[string]broker.Authenticator // by listener
	authorizer broker.Authorizer
	scram      broker.EnhancedAuthenticator // nil when it is not offered
	clientID   string                       // the form of users' client ids; empty means any
	web        *auth.HTTP
	watcher    auth.Watcher
	watching   sync.WaitGroup
	stop       context.CancelFunc
}

// newAccess makes the rules of a configuration. Files that are missing or broken deny, and are in faults.
func newAccess(cfg *config.Config, log *slog.Logger) (a *access, faults []error, err error) {
	r, faults, err := newRules(cfg)
	if err != nil {
		return nil, nil, err
	}
	t := &cfg.Auth.Throttle
	a = &access{log: log}
	a.throttle = &auth.Throttle{
		Next: byListener{a}, Base: time.Duration(t.Base), Max: time.Duration(t.Max), Decay: time.Duration(t.Decay), Burst: int(t.Burst),
	}
	a.current.Store(r)
	return a, faults, nil
}

// start watches the files of the rules. changed is called after one of them has changed.
func (a *access) start(changed func()) {
	r := a.current.Load()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.watcher.OnChange = func() {
		changed()
		a.log.Info("access files changed and were read again")
	}
	r.watcher.OnError = func(path string, err error) {
		a.log.Error("keeping the old content of a file that is broken", "file", path, "reason", err)
	}
	r.watching.Go(func() { r.watcher.Run(ctx) })
}

// replace puts the rules of a new configuration into force, unless something about them is wrong.
func (a *access) replace(cfg *config.Config, changed func()) error {
	r, faults, err := newRules(cfg)
	if err == nil && len(faults) > 0 {
		r.close()
		err = errors.Join(faults...)
	}
	if err != nil {
		return err
	}
	old := a.current.Swap(r)
	a.start(changed)
	old.close()
	return nil
}

// close ends what goes on in the background.
func (a *access) close() { a.current.Load().close() }

func (r *rules) close() {
	if r.stop != nil {
		r.stop()
		r.watching.Wait()
	}
	if r.web != nil {
		r.web.Close()
	}
}

// Authenticate implements broker.Authenticator: failed logins slow down further ones.
func (a *access) Authenticate(ctx context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	return a.throttle.Authenticate(ctx, r)
}

// Authorize implements broker.Authorizer.
func (a *access) Authorize(c *broker.ClientInfo, act broker.Action, topic string) error {
	return a.current.Load().authorizer.Authorize(c, act, topic)
}

// CoversRead implements broker.Coverer.
func (a *access) CoversRead(c *broker.ClientInfo, filter string) bool {
	covers, ok := a.current.Load().authorizer.(broker.Coverer)
	return ok && covers.CoversRead(c, filter)
}

// DecidesAtOnce implements broker.Prompt.
func (a *access) DecidesAtOnce() bool {
	p, ok := a.current.Load().authorizer.(broker.Prompt)
	return ok && p.DecidesAtOnce()
}

// byListener asks the authenticator of the listener that the client came to.
type byListener struct{ access *access }

// Authenticate implements broker.Authenticator.
func (b byListener) Authenticate(ctx context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	next := b.access.current.Load().login[r.Listener]
	if next == nil {
		return broker.Grant{}, fmt.Errorf("%w: listener %q is not configured", mqtt.NotAuthorized, r.Listener)
	}
	return next.Authenticate(ctx, r)
}

// scramMethod is SCRAM as long as the rules offer it.
type scramMethod struct{ access *access }

// Method implements broker.EnhancedAuthenticator.
func (scramMethod) Method() string { return auth.ScramMethod }

// Start implements broker.EnhancedAuthenticator.
func (s scramMethod) Start(r *broker.ConnectRequest) (broker.Exchange, error) {
	rules := s.access.current.Load()
	if rules.scram == nil {
		return nil, mqtt.BadAuthenticationMethod
	}
	x, err := rules.scram.Start(r)
	if err != nil || rules.clientID == "" {
		return x, err
	}
	return &boundExchange{x, rules.clientID, broker.ConnectRequest{ClientID: r.ClientID}}, nil
}

// boundExchange holds users who log in by SCRAM to the form of their client ids.
type boundExchange struct {
	broker.Exchange
	template string
	request  broker.ConnectRequest
}

// Next implements broker.Exchange.
func (x *boundExchange) Next(ctx context.Context, data []byte) (reply []byte, done bool, err error) {
	reply, done, err = x.Exchange.Next(ctx, data)
	if err == nil && done {
		_, err = auth.RequireClientID(granted{x.Grant()}, x.template).Authenticate(ctx, &x.request)
	}
	return reply, done, err
}

// granted is an authenticator that has decided already.
type granted struct{ grant broker.Grant }

// Authenticate implements broker.Authenticator.
func (g granted) Authenticate(context.Context, *broker.ConnectRequest) (broker.Grant, error) {
	return g.grant, nil
}

// newRules opens what the configuration names. Files that cannot be used are faults: what they decide is denied.
func newRules(cfg *config.Config) (r *rules, faults []error, err error) {
	r = &rules{login: make(map[string]broker.Authenticator), clientID: cfg.Auth.ClientID}
	logins, faults, err := r.openLogins(&cfg.Auth)
	if err != nil {
		return nil, nil, err
	}
	if err := r.openACL(&cfg.Auth); err != nil {
		faults = append(faults, err)
	}
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		identity := ""
		if l.TLS != nil {
			identity = l.TLS.Identity
		}
		r.login[l.Transport().Name] = r.chain(logins, identity, admitsAnybody(cfg, l))
	}
	r.login[config.HTTPName] = r.chain(logins, "", admitsAnybody(cfg, httpListener(cfg)))
	return r, faults, nil
}

// openLogins opens the sources of users that all listeners share.
func (r *rules) openLogins(a *config.Auth) (logins auth.Chain, faults []error, err error) {
	if a.HTTP != nil {
		if r.web, err = openWeb(a.HTTP); err != nil {
			return nil, nil, a.HTTP.Pos.Errorf("auth.http: %w", err)
		}
	}
	asksWeb := a.HTTP != nil && a.HTTP.ConnectURL != ""
	if a.PasswordFile != "" {
		f, err := auth.OpenPasswords(a.PasswordFile, auth.PasswordConfig{PassUnknown: asksWeb || a.JWT != nil})
		if err != nil {
			faults = append(faults, fmt.Errorf("password file: %w", err))
		}
		logins, r.watcher.Files = append(logins, f), append(r.watcher.Files, f)
		if a.Scram {
			r.scram = f.Scram()
		}
	}
	if a.JWT != nil {
		f, err := openJWT(a.JWT)
		if err != nil {
			faults = append(faults, fmt.Errorf("token keys: %w", err))
		}
		logins, r.watcher.Files = append(logins, f), append(r.watcher.Files, f)
	}
	if asksWeb {
		logins = append(logins, r.web)
	}
	return logins, faults, nil
}

func openJWT(j *config.JWT) (*auth.JWT, error) {
	c := auth.JWTConfig{
		KeyFile: j.KeyFile, FromUsername: j.FromUsername, UserClaim: j.UserClaim, Match: j.Match,
		Audience: j.Audience, Issuer: j.Issuer, Leeway: time.Duration(j.Leeway), AllowEternal: j.AllowEternal,
	}
	if j.Format == "secret" {
		c.Format = auth.Secret
	}
	return auth.OpenJWT(c)
}

func openWeb(w *config.Web) (*auth.HTTP, error) {
	c := auth.HTTPConfig{
		ConnectURL: w.ConnectURL, AccessURL: w.AccessURL, Timeout: time.Duration(w.Timeout), MaxConcurrent: int(w.MaxConcurrent),
		CacheTTL: time.Duration(w.Cache), CacheSize: int(w.CacheSize),
	}
	if w.BearerFile != "" {
		token, err := os.ReadFile(w.BearerFile)
		if err != nil {
			return nil, err
		}
		c.Header = http.Header{"Authorization": {"Bearer " + strings.TrimSpace(string(token))}}
	}
	if w.CAFile != "" {
		pem, err := os.ReadFile(w.CAFile)
		if err != nil {
			return nil, err
		}
		c.TLS = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		if !c.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", w.CAFile)
		}
	}
	return auth.NewHTTP(c)
}

// openACL sets who decides about topics: everything is allowed if nobody does.
func (r *rules) openACL(a *config.Auth) error {
	var deciders auth.Authorizers
	var fault error
	if a.ACLFile != "" {
		f, err := auth.OpenACL(a.ACLFile)
		if err != nil {
			fault = fmt.Errorf("access control list: %w", err)
		}
		deciders, r.watcher.Files = append(deciders, f), append(r.watcher.Files, f)
	}
	if a.HTTP != nil && a.HTTP.AccessURL != "" {
		deciders = append(deciders, r.web)
	}
	switch len(deciders) {
	case 0:
		r.authorizer = auth.AllowAll{}
	case 1:
		r.authorizer = deciders[0]
	default:
		r.authorizer = deciders
	}
	return fault
}

// chain is who decides about logins on one listener.
func (r *rules) chain(logins auth.Chain, identity string, anybody bool) broker.Authenticator {
	known := append(auth.Chain(nil), logins...)
	if name, ok := certificateNames[identity]; ok {
		known = append(auth.Chain{auth.Certificate{Name: name}}, known...)
	}
	switch {
	case len(known) == 0 && anybody:
		return auth.Everybody{}
	case len(known) == 0:
		return auth.DenyAll{}
	}
	if r.clientID != "" {
		for i, next := range known { // one by one: a chain in a chain would refuse where its members have no opinion
			known[i] = auth.RequireClientID(next, r.clientID)
		}
	}
	if anybody {
		known = append(known, auth.Anonymous{})
	}
	return known
}

var certificateNames = map[string]auth.CertificateName{
	"cn": auth.CommonName, "dns": auth.DNSName, "email": auth.EmailName, "uri": auth.URIName,
}

// knowsUsers reports whether clients of a listener can show who they are.
func knowsUsers(cfg *config.Config, l *config.Listener) bool {
	a := &cfg.Auth
	return a.PasswordFile != "" || a.JWT != nil || a.HTTP != nil && a.HTTP.ConnectURL != "" || l.TLS != nil && l.TLS.Identity != ""
}

// admitsAnybody reports whether a listener lets in clients without credentials: as configured, otherwise only if no user is
// known and only this machine can reach it.
func admitsAnybody(cfg *config.Config, l *config.Listener) bool {
	switch {
	case l.AllowAnonymous != nil:
		return *l.AllowAnonymous
	case cfg.Auth.AllowAnonymous != nil:
		return *cfg.Auth.AllowAnonymous
	}
	return !knowsUsers(cfg, l) && l.Transport().Loopback()
}

// httpListener is the HTTP listener as far as access is concerned: clients reach MQTT there, at /mqtt.
func httpListener(cfg *config.Config) *config.Listener {
	t := cfg.HTTP.Transport()
	return &config.Listener{Pos: cfg.HTTP.Pos, Name: t.Name, Network: "tcp", Address: t.Address}
}

// checkOpen refuses a configuration in which a listener would let in nobody, or anybody without that having been said.
func checkOpen(cfg *config.Config) error {
	all := make([]*config.Listener, 0, len(cfg.Listeners)+1)
	for i := range cfg.Listeners {
		all = append(all, &cfg.Listeners[i])
	}
	if cfg.HTTP.Address != config.Off {
		all = append(all, httpListener(cfg))
	}
	for _, l := range all {
		if admitsAnybody(cfg, l) || knowsUsers(cfg, l) {
			continue
		}
		if l.AllowAnonymous == nil && cfg.Auth.AllowAnonymous == nil {
			return usage(l.Pos.Errorf("other machines can reach the listener on %s, and no authentication is configured", l.Address),
				"set auth.password_file and give users passwords with: magpie passwd FILE USER; or, if anybody may come in: --allow-anonymous")
		}
		return usage(l.Pos.Errorf("nobody could use the listener on %s: allow_anonymous is false, and no authentication is configured", l.Address),
			"set auth.password_file and give users passwords with: magpie passwd FILE USER")
	}
	return nil
}
