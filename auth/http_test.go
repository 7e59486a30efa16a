package auth

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// service starts a web service on loopback and an HTTP that asks it about everything.
func service(t testing.TB, cfg HTTPConfig, handle http.HandlerFunc) *HTTP {
	t.Helper()
	srv := httptest.NewServer(handle)
	t.Cleanup(srv.Close)
	cfg.ConnectURL, cfg.AccessURL = srv.URL+"/connect", srv.URL+"/access"
	h, err := NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// saying answers everything with one status and body.
func saying(status int, body string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, body)
	}
}

func TestHTTPAnswers(t *testing.T) {
	const none = mqtt.UnspecifiedError // stands for no opinion
	const fault = mqtt.ImplementationSpecificError
	tests := []struct {
		name    string
		status  int
		body    string
		connect mqtt.ReasonCode
		access  mqtt.ReasonCode
	}{
		{"yes", 200, "", mqtt.Success, mqtt.Success},
		{"yes with an object", 200, `{}`, mqtt.Success, mqtt.Success},
		{"yes with a result", 200, `{"result":"allow"}`, mqtt.Success, mqtt.Success},
		{"no in a result", 200, `{"result":"deny"}`, mqtt.BadUserNameOrPassword, mqtt.NotAuthorized},
		{"error in a result", 200, `{"result":{"error":"not_allowed"}}`, mqtt.BadUserNameOrPassword, mqtt.NotAuthorized},
		{"false in a result", 200, `{"result":false}`, mqtt.BadUserNameOrPassword, mqtt.NotAuthorized},
		{"no opinion in a result", 200, `{"result":"ignore"}`, none, none},
		{"no opinion", 204, "", none, none},
		{"no", 403, "{}", mqtt.BadUserNameOrPassword, mqtt.NotAuthorized},
		{"not found", 404, "", mqtt.BadUserNameOrPassword, mqtt.NotAuthorized},
		{"text", 200, "ok", mqtt.ServerUnavailable, fault},
		{"null", 200, "null", mqtt.ServerUnavailable, fault},
		{"a list", 200, "[]", mqtt.ServerUnavailable, fault},
		{"a login page", 200, "<html>", mqtt.ServerUnavailable, fault},
		{"bad acl", 200, `{"acl":{"pub":["a/#/b"]}}`, mqtt.ServerUnavailable, fault},
		{"bad time", 200, `{"expires":"soon"}`, mqtt.ServerUnavailable, fault},
		{"too large", 200, "{}" + strings.Repeat(" ", maxReply), mqtt.ServerUnavailable, fault},
		{"created", 201, "", mqtt.ServerUnavailable, fault},
		{"redirect", 302, "", mqtt.ServerUnavailable, fault},
		{"busy", 429, "", mqtt.ServerUnavailable, fault},
		{"broken", 500, "", mqtt.ServerUnavailable, fault},
		{"overloaded", 503, "", mqtt.ServerUnavailable, fault},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := service(t, HTTPConfig{}, saying(test.status, test.body))
			g, err := h.Authenticate(t.Context(), login("anna", "x"))
			wantCode(t, err, test.connect)
			if (err == nil) != (g.User == "anna") {
				t.Errorf("became %q", g.User)
			}
			for _, act := range []broker.Action{w, s} {
				err = h.Authorize(client("c1", "anna"), act, "a")
				wantCode(t, err, test.access)
				if test.access == none && err != broker.ErrNoOpinion {
					t.Errorf("got %v, want no opinion", err)
				}
			}
			if got := h.CoversRead(client("c1", "anna"), "a"); got != (test.access == mqtt.Success) {
				t.Errorf("covers reading: %v", got)
			}
		})
	}
}

func TestHTTPGrant(t *testing.T) {
	h := service(t, HTTPConfig{}, saying(200, `{"user":"anna2","expires":"2030-01-01T00:00:00Z","acl":{"pub":["up/%c"]}}`))
	g, err := h.Authenticate(t.Context(), login("anna", "x"))
	if err != nil || g.User != "anna2" || !g.Expires.Equal(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Fatalf("%+v, %v", g, err)
	}
	wantCode(t, g.Access.Authorize(client("c1", "anna2"), w, "up/c1"), mqtt.Success)
	wantCode(t, g.Access.Authorize(client("c1", "anna2"), w, "up/c2"), mqtt.NotAuthorized)
}

func TestHTTPQuestions(t *testing.T) {
	var got []string
	h := service(t, HTTPConfig{Header: http.Header{"Authorization": {"Bearer x"}}}, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+r.Header.Get("Content-Type")+" "+string(body))
	})
	binary := login("anna", "\xff\x00")
	binary.Listener = "tls"
	for _, r := range []*broker.ConnectRequest{login("anna", "x"), binary, {ClientID: "c2", Version: mqtt.V311}} {
		if _, err := h.Authenticate(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	if err := h.Authorize(client("c1", "anna"), s, "a/#"); err != nil {
		t.Error(err)
	}
	want := []string{
		`POST /connect Bearer x application/json {"client_id":"c1","username":"anna","password":"x","protocol":5,"address":"192.0.2.1"}`,
		`POST /connect Bearer x application/json {"client_id":"c1","username":"anna","password_base64":"/wA=","protocol":5,"listener":"tls","address":"192.0.2.1"}`,
		`POST /connect Bearer x application/json {"client_id":"c2","protocol":4}`,
		`POST /access Bearer x application/json {"client_id":"c1","user":"anna","action":"subscribe","topic":"a/#"}`,
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("question %d: got\n%s\nwant\n%s", i, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestHTTPCache(t *testing.T) {
	var asked atomic.Int32
	h := service(t, HTTPConfig{}, func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var q connectQuestion
		_ = json.NewDecoder(r.Body).Decode(&q)
		if q.Password == nil || *q.Password != "right" {
			rw.WriteHeader(http.StatusForbidden)
		}
	})
	for i, step := range []struct {
		password string
		want     mqtt.ReasonCode
		asked    int32
	}{
		{"right", mqtt.Success, 1}, {"right", mqtt.Success, 1}, {"wrong", mqtt.BadUserNameOrPassword, 2},
		{"wrong", mqtt.BadUserNameOrPassword, 2}, {"right", mqtt.Success, 2},
	} {
		r := login("anna", step.password)
		r.Remote.(*net.TCPAddr).Port = 1000 + i // does not matter
		_, err := h.Authenticate(t.Context(), r)
		wantCode(t, err, step.want)
		if n := asked.Load(); n != step.asked {
			t.Errorf("step %d: asked %d times, want %d", i, n, step.asked)
		}
	}
	h.Forget()
	if _, err := h.Authenticate(t.Context(), login("anna", "right")); err != nil || asked.Load() != 3 {
		t.Errorf("after Forget: asked %d times, %v", asked.Load(), err)
	}
}

// Faults are not remembered, and a grant no longer than it lasts.
func TestHTTPCacheNot(t *testing.T) {
	var asked atomic.Int32
	for _, handle := range []http.HandlerFunc{saying(500, ""), saying(200, `{"expires":"2001-01-01T00:00:00Z"}`)} {
		h := service(t, HTTPConfig{}, func(rw http.ResponseWriter, r *http.Request) { asked.Add(1); handle(rw, r) })
		asked.Store(0)
		for range 3 {
			_, _ = h.Authenticate(t.Context(), login("anna", "x"))
		}
		if n := asked.Load(); n != 3 {
			t.Errorf("asked %d times, want 3", n)
		}
	}
}

// Many clients with the same question make one request; one that gives up does not take the others with it.
func TestHTTPSingleFlight(t *testing.T) {
	var asked atomic.Int32
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	h := service(t, HTTPConfig{CacheTTL: -1}, func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		arrived <- struct{}{}
		<-release
	})
	ctx, giveUp := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { _, err := h.Authenticate(ctx, login("anna", "x")); gone <- err }()
	<-arrived
	var all sync.WaitGroup
	question, err := json.Marshal(newConnectQuestion(login("anna", "x")))
	if err != nil {
		t.Fatal(err)
	}
	f := h.join(h.keys.key([]byte(h.cfg.ConnectURL), question), h.cfg.ConnectURL, question) // the flight under way
	for range 5 {
		all.Go(func() {
			<-f.done
			wantCode(t, f.err, mqtt.Success)
		})
	}
	giveUp()
	wantCode(t, <-gone, mqtt.ServerUnavailable)
	close(release)
	all.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestHTTPUnreachable(t *testing.T) {
	srv := httptest.NewServer(saying(200, ""))
	url := srv.URL
	srv.Close()
	h, err := NewHTTP(HTTPConfig{ConnectURL: url, AccessURL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, err = h.Authenticate(t.Context(), login("anna", "x"))
	wantCode(t, err, mqtt.ServerUnavailable)
	wantCode(t, h.Authorize(client("c", "anna"), w, "a"), mqtt.ImplementationSpecificError)
}

func TestHTTPTimeout(t *testing.T) {
	h := service(t, HTTPConfig{Timeout: time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client is gone
		<-r.Context().Done()
	})
	_, err := h.Authenticate(t.Context(), login("anna", "x"))
	wantCode(t, err, mqtt.ServerUnavailable)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestHTTPClosed(t *testing.T) {
	h := service(t, HTTPConfig{}, saying(200, ""))
	h.Close()
	_, err := h.Authenticate(t.Context(), login("anna", "x"))
	wantCode(t, err, mqtt.ServerUnavailable)
	wantCode(t, h.Authorize(client("c", "anna"), w, "a"), mqtt.ImplementationSpecificError)
}

// Credentials do not follow a redirect.
func TestHTTPRedirect(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
	defer elsewhere.Close()
	h := service(t, HTTPConfig{}, func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	_, err := h.Authenticate(t.Context(), login("anna", "x"))
	wantCode(t, err, mqtt.ServerUnavailable)
}

func TestHTTPConfigRefused(t *testing.T) {
	for _, u := range []string{"localhost:80", "ftp://x/y", "http://", "://", "file:///etc/passwd"} {
		if _, err := NewHTTP(HTTPConfig{ConnectURL: u}); err == nil {
			t.Errorf("%q was taken", u)
		}
	}
	h, err := NewHTTP(HTTPConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.Authenticate(t.Context(), login("anna", "x")); err != broker.ErrNoOpinion {
		t.Errorf("without URL: %v", err)
	}
	if err := h.Authorize(client("c", ""), w, "a"); err != broker.ErrNoOpinion {
		t.Errorf("without URL: %v", err)
	}
}

// What may be read follows from what may be subscribed to, without asking, for this client of this user alone.
func TestHTTPRead(t *testing.T) {
	var denied atomic.Bool
	h := service(t, HTTPConfig{CacheTTL: -1}, func(rw http.ResponseWriter, r *http.Request) {
		var q accessQuestion
		_ = json.NewDecoder(r.Body).Decode(&q)
		if q.Action == "read" {
			t.Error("asked about reading")
		}
		if denied.Load() || !strings.HasPrefix(q.Topic, "a/") {
			rw.WriteHeader(http.StatusForbidden)
		}
	})
	anna := client("c1", "anna")
	wantCode(t, h.Authorize(anna, s, "a/+"), mqtt.Success)
	wantCode(t, h.Authorize(anna, s, "b/+"), mqtt.NotAuthorized)
	chain := Authorizers{h, parseACL(t, "topic read b/#\nuser anna\ntopic deny a/x")}
	for _, test := range []struct {
		c    *broker.ClientInfo
		name string
		want error
	}{
		{anna, "a/1", nil}, {anna, "a/x", mqtt.NotAuthorized}, {anna, "b/1", broker.ErrNoOpinion},
		{client("c1", "bob"), "a/1", broker.ErrNoOpinion}, {client("c2", "anna"), "a/1", broker.ErrNoOpinion},
	} {
		if err := chain.Authorize(test.c, r, test.name); err != test.want {
			t.Errorf("%s of %s: %q: got %v, want %v", test.c.ClientID, test.c.User, test.name, err, test.want)
		}
	}
	if !h.CoversRead(anna, "a/+") || h.CoversRead(anna, "b/+") || h.CoversRead(client("c2", "anna"), "a/+") || chain.CoversRead(anna, "a/+") {
		t.Error("covers too little or too much")
	}
	denied.Store(true)
	wantCode(t, h.Authorize(anna, s, "a/+"), mqtt.NotAuthorized) // as after Reauthorize
	if h.CoversRead(anna, "a/+") || h.Authorize(anna, r, "a/1") == nil {
		t.Error("what was taken back may still be read")
	}
}

func TestGrantedFiltersBounded(t *testing.T) {
	g := newGrantedFilters(2)
	one, two, three := owner{"1", ""}, owner{"2", ""}, owner{"3", ""}
	g.set(one, "a", true)
	g.set(two, "a", true)
	g.set(one, "b", true)
	g.set(three, "a", true)
	for who, want := range map[owner]bool{one: true, two: false, three: true} {
		if got := g.has(who, "a"); got != want {
			t.Errorf("%v: %v", who, got)
		}
	}
	for i := range maxGranted + 1 {
		if ok := g.set(one, strings.Repeat("x", i+1), true); ok != (i < maxGranted-2) {
			t.Fatalf("filter %d: %v", i, ok)
		}
	}
	if !g.set(one, "a", true) {
		t.Error("a filter that is there was refused")
	}
	g.set(three, "a", false)
	if len(g.byOwner) != 1 || g.recent.Len() != 1 {
		t.Errorf("%d clients left, want 1", len(g.byOwner))
	}
}
