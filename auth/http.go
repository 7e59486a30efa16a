package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// HTTPConfig says how an [HTTP] works. Durations: zero means the default.
type HTTPConfig struct {
	ConnectURL string        // asked when a client connects; empty means no opinion
	AccessURL  string        // asked when a client publishes or subscribes; empty means no opinion
	Header     http.Header   // sent along, for example Authorization
	TLS        *tls.Config   // nil means the system's roots
	Timeout    time.Duration // for one question, waiting for a turn included; default 5 s
	// MaxConcurrent bounds the questions under way at once. Zero means 64.
	MaxConcurrent int
	// CacheTTL is how long an answer is remembered, yes or no. Default 30 s; a negative value means not at all.
	CacheTTL time.Duration
	// CacheSize bounds how many answers are remembered. Zero means 10,000.
	CacheSize int
	// MaxClients bounds for how many clients the filters allowed to them are remembered. Zero means 100,000.
	MaxClients int
}

func (c HTTPConfig) withDefaults() HTTPConfig {
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.MaxConcurrent <= 0 {
		c.MaxConcurrent = 64
	}
	if c.CacheTTL == 0 {
		c.CacheTTL = 30 * time.Second
	}
	if c.CacheSize <= 0 {
		c.CacheSize = 10_000
	}
	if c.MaxClients <= 0 {
		c.MaxClients = 100_000
	}
	return c
}

// maxReply bounds what is read of an answer, in bytes.
const maxReply = 64 << 10

// HTTP asks a web service. It posts JSON and takes 200 as yes, 204 as no opinion, 4xx as no; anything else, and no
// answer in time, lets nobody in. Redirects are not followed, and no proxy is used.
//
// A client that connects is described by
//
//	{"client_id":"…","username":"…","password":"…","protocol":5,"listener":"…","address":"192.0.2.1","common_name":"…"}
//
// where absent members are left out, and a password that is not UTF-8 stands in password_base64 instead. The answer 200
// may have a body {"user":"…","expires":"2030-01-01T00:00:00Z","acl":{"pub":[…],"sub":[…]}}, each member optional; the
// user is the User Name otherwise. A member "result" of a service written for another broker is heeded: "allow" and
// "ok" are yes, "ignore" is no opinion, all else is no. A body that is not a JSON object is taken for a fault.
//
// What a client wants to do is described by {"client_id":"…","user":"…","action":"write|subscribe","topic":"…"}.
// Reading is not asked about: it must not wait. What a client may receive is decided by the filters that it was allowed
// to subscribe to.
//
// It is safe for many goroutines. Questions run on goroutines of their own, which Close waits for.
type HTTP struct {
	cfg     HTTPConfig
	client  *http.Client
	gate    gate
	keys    *keyer
	cache   *cache[reply]
	granted *grantedFilters

	ctx     context.Context // of all questions; Close ends it
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex // guards all below
	flights map[cacheKey]*flight
}

// flight is a question under way. What it learns may be read once done is closed.
type flight struct {
	done  chan struct{}
	reply reply
	err   error
}

type decision int

const (
	no decision = iota
	yes
	noOpinion
)

// reply is what the service said.
type reply struct {
	decision decision
	user     string
	expires  time.Time
	access   *Topics
}

// NewHTTP checks the configuration. It does not ask yet.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	for _, u := range []string{cfg.ConnectURL, cfg.AccessURL} {
		if err := checkURL(u); err != nil {
			return nil, err
		}
	}
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	return &HTTP{
		cfg:     cfg,
		client:  newHTTPClient(&cfg),
		gate:    newGate(cfg.MaxConcurrent),
		keys:    newKeyer(),
		cache:   newCache[reply](cfg.CacheSize, time.Now),
		granted: newGrantedFilters(cfg.MaxClients),
		ctx:     ctx,
		cancel:  cancel,
		flights: map[cacheKey]*flight{},
	}, nil
}

func checkURL(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("authentication URL %q is not of the form https://host/path", s)
	}
	return nil
}

func newHTTPClient(cfg *HTTPConfig) *http.Client {
	t := &http.Transport{
		TLSClientConfig:        cfg.TLS,
		MaxConnsPerHost:        cfg.MaxConcurrent,
		MaxIdleConnsPerHost:    cfg.MaxConcurrent,
		IdleConnTimeout:        time.Minute,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxReply,
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: t, CheckRedirect: stay}
}

// Close ends the questions under way, waits for them, and lets the connections go. Nobody is let in afterwards.
func (h *HTTP) Close() {
	h.mu.Lock()
	h.cancel() // under the lock, so that no flight starts once the wait has begun
	h.mu.Unlock()
	h.running.Wait()
	h.client.CloseIdleConnections()
}

// Forget drops the answers that are remembered, so that the next questions are asked anew.
func (h *HTTP) Forget() { h.cache.clear() }

// connectQuestion is what the service is told about a client that connects.
type connectQuestion struct {
	ClientID       string  `json:"client_id"`
	Username       *string `json:"username,omitempty"`
	Password       *string `json:"password,omitempty"`
	PasswordBase64 []byte  `json:"password_base64,omitempty"`
	Protocol       int     `json:"protocol"`
	Listener       string  `json:"listener,omitempty"`
	Address        string  `json:"address,omitempty"`
	CommonName     string  `json:"common_name,omitempty"`
}

func newConnectQuestion(r *broker.ConnectRequest) *connectQuestion {
	q := &connectQuestion{ClientID: r.ClientID, Protocol: int(r.Version), Listener: r.Listener, Address: hostOf(r.Remote)}
	if r.HasUsername {
		q.Username = &r.Username
	}
	if text := string(r.Password); r.HasPassword && utf8.ValidString(text) {
		q.Password = &text
	} else if r.HasPassword {
		q.PasswordBase64 = r.Password // JSON cannot carry it otherwise, and would merge different ones into one
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && len(r.TLS.VerifiedChains[0]) > 0 {
		q.CommonName = r.TLS.VerifiedChains[0][0].Subject.CommonName
	}
	return q
}

// hostOf returns the address without the port, which would defeat the cache.
func hostOf(a net.Addr) string {
	if a == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// Authenticate asks the service, and blocks until it answers, Timeout passes or ctx is done.
func (h *HTTP) Authenticate(ctx context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if h.cfg.ConnectURL == "" {
		return broker.Grant{}, broker.ErrNoOpinion
	}
	a, err := h.ask(ctx, h.cfg.ConnectURL, newConnectQuestion(r))
	switch {
	case err != nil:
		return broker.Grant{}, fmt.Errorf("%w: %w", mqtt.ServerUnavailable, err)
	case a.decision == noOpinion:
		return broker.Grant{}, broker.ErrNoOpinion
	case a.decision == no:
		return broker.Grant{}, refuse("authentication service says no to user %q", r.Username)
	}
	g := broker.Grant{User: a.user, Expires: a.expires}
	if g.User == "" {
		g.User = r.Username
	}
	if a.access != nil {
		g.Access = a.access
	}
	return g, nil
}

// accessQuestion is what the service is told about a publish or a subscription.
type accessQuestion struct {
	ClientID string `json:"client_id"`
	User     string `json:"user"`
	Action   string `json:"action"`
	Topic    string `json:"topic"`
}

// Authorize asks the service about Write and Subscribe, and blocks for Timeout at most. Without an answer the code is
// ImplementationSpecificError, which tells a fault that passes from a decision. Read is decided by what is remembered.
func (h *HTTP) Authorize(c *broker.ClientInfo, act broker.Action, topic string) error {
	if h.cfg.AccessURL == "" {
		return broker.ErrNoOpinion
	}
	who := owner{c.ClientID, c.User}
	if act == broker.Read {
		if h.granted.matches(who, topic) {
			return nil
		}
		return broker.ErrNoOpinion
	}
	a, err := h.ask(h.ctx, h.cfg.AccessURL, &accessQuestion{c.ClientID, c.User, act.String(), topic})
	if err != nil {
		return fmt.Errorf("%w: %w", mqtt.ImplementationSpecificError, err)
	}
	if act == broker.Subscribe && !h.granted.set(who, topic, a.decision == yes) {
		return mqtt.QuotaExceeded
	}
	switch a.decision {
	case yes:
		return nil
	case noOpinion:
		return broker.ErrNoOpinion
	}
	return mqtt.NotAuthorized
}

// DecidesAtOnce reports whether the service is asked about logins only; see [broker.Prompt].
func (h *HTTP) DecidesAtOnce() bool { return h.cfg.AccessURL == "" }

// CoversRead reports whether the service allowed the client to subscribe to the filter; see [broker.Coverer].
func (h *HTTP) CoversRead(c *broker.ClientInfo, filter string) bool {
	return h.granted.has(owner{c.ClientID, c.User}, filter)
}

// neverDeniesRead holds for every filter: see Authorize.
func (h *HTTP) neverDeniesRead(*broker.ClientInfo, string) bool { return true }

// ask returns the answer to a question, from memory, from the same question under way, or from the service.
func (h *HTTP) ask(ctx context.Context, url string, question any) (reply, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return reply{}, fmt.Errorf("ask %s: %w", url, err)
	}
	key := h.keys.key([]byte(url), body)
	if a, ok := h.cache.get(key); ok {
		return a, nil
	}
	f := h.join(key, url, body)
	select {
	case <-f.done:
		return f.reply, f.err
	case <-ctx.Done():
		return reply{}, fmt.Errorf("ask %s: %w", url, ctx.Err())
	}
}

// join returns the flight of a question and starts it if there is none. A flight does not end with the client that
// started it: others may wait for it.
func (h *HTTP) join(key cacheKey, url string, body []byte) *flight {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f, ok := h.flights[key]; ok {
		return f
	}
	f := &flight{done: make(chan struct{})}
	if err := h.ctx.Err(); err != nil {
		f.err = fmt.Errorf("ask %s: closed", url)
		close(f.done)
		return f
	}
	h.flights[key] = f
	h.running.Go(func() { h.fly(f, key, url, body) })
	return f
}

func (h *HTTP) fly(f *flight, key cacheKey, url string, body []byte) {
	ctx, cancel := context.WithTimeout(h.ctx, h.cfg.Timeout)
	defer cancel()
	f.reply, f.err = h.post(ctx, url, body)
	if f.err == nil && h.cfg.CacheTTL > 0 {
		h.cache.put(key, f.reply, earliest(time.Now().Add(h.cfg.CacheTTL), f.reply.expires))
	}
	h.mu.Lock()
	delete(h.flights, key)
	h.mu.Unlock()
	close(f.done)
}

func (h *HTTP) post(ctx context.Context, url string, body []byte) (reply, error) {
	if err := h.gate.enter(ctx); err != nil {
		return reply{}, err
	}
	defer h.gate.leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header = h.cfg.Header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return reply{}, fmt.Errorf("ask %s: %w", url, err)
	}
	return parseReply(resp.StatusCode, text)
}

// parseReply reads an answer; everything that is not plainly yes is no, no opinion or a fault.
func parseReply(status int, body []byte) (reply, error) {
	switch {
	case status == http.StatusNoContent:
		return reply{decision: noOpinion}, nil
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests:
		return reply{}, fmt.Errorf("service answers %d %s", status, http.StatusText(status)) // not about the client
	case status >= 400 && status < 500:
		return reply{decision: no}, nil
	case status != http.StatusOK:
		return reply{}, fmt.Errorf("service answers %d %s", status, http.StatusText(status))
	case len(body) > maxReply:
		return reply{}, fmt.Errorf("service answers more than %d bytes", maxReply)
	}
	return parseYes(body)
}

func parseYes(body []byte) (reply, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return reply{decision: yes}, nil
	}
	var m *struct {
		Result  json.RawMessage `json:"result"`
		User    string          `json:"user"`
		Expires time.Time       `json:"expires"`
		ACL     json.RawMessage `json:"acl"`
	}
	if err := json.Unmarshal(body, &m); err != nil || m == nil {
		return reply{}, errors.New("service answers 200 with a body that is not the JSON object expected")
	}
	a := reply{decision: parseResult(m.Result), user: m.User, expires: m.Expires}
	if m.ACL == nil {
		return a, nil
	}
	var err error
	if a.access, err = parseTopicLists(m.ACL); err != nil {
		return reply{}, fmt.Errorf("service answers a bad acl: %w", err)
	}
	return a, nil
}

func parseResult(raw json.RawMessage) decision {
	switch string(raw) {
	case "", `"allow"`, `"ok"`:
		return yes
	case `"ignore"`:
		return noOpinion
	}
	return no
}
