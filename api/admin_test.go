package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
)

func TestAdminClients(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := adminClient(t, AdminConfig{Broker: b, Version: "v1"})
	c1, c2 := connect(t, b, "c1"), connect(t, b, "c/2")
	if _, err := c2.Subscribe(t.Context(), mqtt.Subscription{Filter: "a/#", QoS: mqtt.ExactlyOnce, NoLocal: true}); err != nil {
		t.Fatal(err)
	}
	ids := func(all bool) (ids []string) {
		t.Helper()
		list, err := a.Clients(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			ids = append(ids, c.ClientID)
		}
		return ids
	}
	if got, want := ids(false), []string{"c/2", "c1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("clients %q, want %q", got, want)
	}
	subs, err := a.Subscriptions(t.Context(), "c/2")
	if want := []Subscription{{Filter: "a/#", QoS: 2, NoLocal: true}}; err != nil || !reflect.DeepEqual(subs, want) {
		t.Errorf("subscriptions %+v, %v, want %+v", subs, err, want)
	}
	if subs, err = a.Subscriptions(t.Context(), "c1"); err != nil || len(subs) != 0 {
		t.Errorf("a client without subscriptions has %+v, %v", subs, err)
	}
	if err := a.Kick(t.Context(), "c1", false); err != nil {
		t.Fatal(err)
	}
	<-c1.Done()
	var code mqtt.ReasonCode
	if !errors.As(c1.Err(), &code) || code != mqtt.AdministrativeAction {
		t.Errorf("the kicked client heard %v", c1.Err())
	}
	for what, err := range map[string]error{
		"kick":          a.Kick(t.Context(), "nobody", true),
		"subscriptions": second(a.Subscriptions(t.Context(), "nobody")),
	} {
		if err == nil || err.Error() != `no client "nobody"` {
			t.Errorf("%s of nobody: %v", what, err)
		}
	}
}

func second[A any](_ A, err error) error { return err }

func TestAdminStats(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := adminClient(t, AdminConfig{Broker: b, Version: "v1"})
	publish(t, connect(t, b, "c1"), "a", "payload", true)
	st, err := a.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Version != "v1" || st.Connected != 1 || st.MessagesReceived != [3]int64{0, 1, 0} || st.Retained != 1 {
		t.Errorf("got %+v", st)
	}
	if n, ok := st.Dropped["expired"]; !ok || n != 0 {
		t.Errorf("drops %v", st.Dropped)
	}
}

// recorder is a stream's receiver.
func recorder() (events chan Event, f func(Event)) {
	events = make(chan Event, 100)
	return events, func(e Event) { events <- e }
}

// Whoever has the stream misses nothing of what happens afterwards.
func TestAdminEvents(t *testing.T) {
	b := newBroker(t, broker.Config{Authenticator: onlyC{}})
	a := adminClient(t, AdminConfig{Broker: b})
	events, f := recorder()
	stop, err := a.Events(t.Context(), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c := connect(t, b, "c1")
	expectEvent(t, events, Event{Kind: Connected, Client: "c1", Version: "5.0", Address: "pipe"})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, Event{Kind: Disconnected, Client: "c1", Version: "5.0", Address: "pipe"})
	ours, theirs := net.Pipe()
	b.ServeConn(theirs)
	if _, err := client.Connect(t.Context(), ours, client.Config{ClientID: "x", Username: "u", Password: []byte("secret")}); err == nil {
		t.Fatal("the client was let in")
	}
	expectEvent(t, events, Event{Kind: Refused, Client: "x", User: "u", Version: "5.0", Address: "pipe", Reason: "not authorized (0x87)"})
}

// onlyC lets in clients whose id begins with c.
type onlyC struct{}

func (onlyC) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if strings.HasPrefix(r.ClientID, "c") {
		return broker.Grant{}, nil
	}
	return broker.Grant{}, mqtt.NotAuthorized
}

func expectEvent(t *testing.T, events <-chan Event, want Event) {
	t.Helper()
	e := <-events
	if e.Time.IsZero() {
		t.Errorf("event without time: %+v", e)
	}
	if e.Time = want.Time; !reflect.DeepEqual(e, want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
}

func TestAdminTrace(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := adminClient(t, AdminConfig{Broker: b})
	c1, c2 := connect(t, b, "c1"), connect(t, b, "c2")
	if _, err := c2.Subscribe(t.Context(), mqtt.Subscription{Filter: "#", QoS: mqtt.AtMostOnce}); err != nil {
		t.Fatal(err)
	}
	all, f := recorder()
	stopAll := trace(t, a, "", "", f)
	of2, f := recorder()
	stopOf2 := trace(t, a, "c2", "", f)
	some, f := recorder()
	stopSome := trace(t, a, "", "b/+", f)
	publish(t, c1, "a", strings.Repeat("x", 500), true)
	publish(t, c1, "b/1", "23℃", false)
	long := Event{
		Kind: Published, Client: "c1", Version: "5.0", Address: "pipe", Topic: "a", Payload: []byte(strings.Repeat("x", PayloadShown)), Size: 500,
		QoS: 1, Retain: true,
	}
	short := Event{Kind: Published, Client: "c1", Version: "5.0", Address: "pipe", Topic: "b/1", Payload: []byte("23℃"), Size: 5, QoS: 1}
	expectEvent(t, all, long)
	expectEvent(t, all, short)
	expectEvent(t, some, short)
	long.Kind, short.Kind = Delivered, Delivered
	long.Client, short.Client = "c2", "c2"
	expectEvent(t, of2, long)
	expectEvent(t, of2, short)
	for _, stop := range []func(){stopAll, stopOf2, stopSome} {
		stop()
	}
	for _, events := range []chan Event{all, of2, some} {
		if len(events) > 0 {
			t.Errorf("one event too many: %+v", <-events)
		}
	}
	if _, err := a.Trace(t.Context(), "", "a/#/b", f); err == nil || !strings.HasPrefix(err.Error(), "not a topic filter: ") {
		t.Errorf("a bad filter gave %v", err)
	}
}

func trace(t *testing.T, a *AdminClient, id, filter string, f func(Event)) (stop func()) {
	t.Helper()
	stop, err := a.Trace(t.Context(), id, filter, f)
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

// A reader who does not keep up loses events and is told how many; the broker does not wait.
func TestFeedLoses(t *testing.T) {
	f := newFeed()
	tell := f.messages("", "#").Published
	for i := range backlog + 7 {
		tell(nil, &mqtt.Message{Topic: fmt.Sprint(i)})
	}
	var out strings.Builder
	if err := f.write(t.Context(), json.NewEncoder(&out), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var last Event
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatal(err)
	}
	if len(lines) != backlog+1 || last.Kind != Lost || last.Count != 7 {
		t.Errorf("%d lines, the last one %+v", len(lines), last)
	}
}

func TestAdminReloadAndShutdown(t *testing.T) {
	b := newBroker(t, broker.Config{})
	reload := errors.New("m.yaml:3: wrong")
	stopped := make(chan struct{})
	a := adminClient(t, AdminConfig{Broker: b, Reload: func() error { return reload }, Shutdown: func() { close(stopped) }})
	if err := a.Reload(t.Context()); err == nil || err.Error() != reload.Error() {
		t.Errorf("reload gave %v", err)
	}
	reload = nil
	if err := a.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	if err := a.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-stopped
	bare := adminClient(t, AdminConfig{Broker: b})
	if bare.Reload(t.Context()) == nil || bare.Shutdown(t.Context()) == nil {
		t.Error("what is not offered was done")
	}
}

// A21: profiles are part of the admin interface, and only of it.
func TestA21ProfilesAreForAdminsOnly(t *testing.T) {
	b := newBroker(t, broker.Config{})
	admin := Admin(AdminConfig{Broker: b})
	public := Public{Broker: b, Health: &Health{}, MQTT: http.NotFoundHandler()}.Handler()
	for _, path := range []string{
		"/clients", "/subscriptions?client=x", "/stats", "/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline",
	} {
		if code := get(public, path, "").Code; code != http.StatusNotFound {
			t.Errorf("public %s: %d", path, code)
		}
		if r := get(admin, path, ""); r.Code != http.StatusOK && !strings.Contains(path, "client=") {
			t.Errorf("admin %s: %d %s", path, r.Code, r.Body)
		}
	}
	for _, path := range []string{"/kick?client=x", "/shutdown", "/reload"} { // a link that somebody clicks on does nothing
		if code := get(admin, path, "").Code; code != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", path, code)
		}
	}
}

func get(h http.Handler, path, host string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if host != "" {
		r.Host = host
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAdminClientWithoutBroker(t *testing.T) {
	a := NewAdminClient(t.TempDir() + "/none")
	defer a.Close()
	_, err := a.Stats(t.Context())
	if err == nil || strings.Contains(err.Error(), "http://") {
		t.Errorf("got %v: want what the socket says, without a URL", err)
	}
}
