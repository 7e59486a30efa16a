package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// AdminConfig is what the admin interface works on.
type AdminConfig struct {
	Broker   *broker.Broker
	Version  string
	Shutdown func()       // asks the process to stop, and returns at once; nil means that this is not offered
	Reload   func() error // reads the configuration again; nil means that this is not offered

	// Backup writes everything that is on disk as it is at one moment, while the broker goes on; nil means that nothing is.
	Backup func(ctx context.Context, w io.Writer) error
}

// Client is a session as the admin interface shows it.
type Client struct {
	ClientID       string    `json:"client_id"`
	User           string    `json:"user,omitempty"`
	Version        string    `json:"version"` // of the protocol, as in "3.1.1"
	Address        string    `json:"address"`
	Listener       string    `json:"listener"`
	Connected      bool      `json:"connected"`
	Since          time.Time `json:"since"` // connected since, or gone since
	Subscriptions  int       `json:"subscriptions"`
	InFlight       int       `json:"in_flight"`
	QueuedMessages int       `json:"queued_messages"`
	QueuedBytes    int       `json:"queued_bytes"`
}

// Subscription is one subscription of a client.
type Subscription struct {
	Filter            string `json:"filter"`
	QoS               byte   `json:"qos"`
	NoLocal           bool   `json:"no_local,omitempty"`
	RetainAsPublished bool   `json:"retain_as_published,omitempty"`
}

// Stats are the broker's numbers.
type Stats struct {
	Version          string           `json:"version"`
	Started          time.Time        `json:"started"`
	Connections      int              `json:"connections"`
	Connected        int              `json:"connected"`
	MaxConnected     int              `json:"max_connected"`
	Sessions         int              `json:"sessions"`
	Subscriptions    int              `json:"subscriptions"`
	Retained         int              `json:"retained"`
	RetainedBytes    int              `json:"retained_bytes"`
	QueuedMessages   int64            `json:"queued_messages"`
	QueuedBytes      int64            `json:"queued_bytes"`
	BytesReceived    int64            `json:"bytes_received"`
	BytesSent        int64            `json:"bytes_sent"`
	MessagesReceived [3]int64         `json:"messages_received"` // by QoS
	MessagesSent     [3]int64         `json:"messages_sent"`
	Refused          int64            `json:"messages_refused"`
	Dropped          map[string]int64 `json:"messages_dropped"` // by reason
}

// admin answers the requests of the admin interface.
type admin struct{ AdminConfig }

// Admin returns the handler of the admin interface: sessions, numbers, events, profiles. Serve it only where nobody but the
// owner of the broker can reach it. Streams end when their request's context does.
func Admin(cfg AdminConfig) http.Handler {
	a := admin{cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /clients", a.clients)
	mux.HandleFunc("GET /subscriptions", a.subscriptions)
	mux.HandleFunc("POST /kick", a.kick)
	mux.HandleFunc("GET /stats", a.stats)
	mux.HandleFunc("GET /events", a.events)
	mux.HandleFunc("GET /trace", a.trace)
	mux.HandleFunc("GET /backup", a.backup)
	mux.HandleFunc("POST /reload", a.reload)
	mux.HandleFunc("POST /shutdown", a.shutdown)
	mux.Handle("GET /metrics", Metrics(cfg.Broker, cfg.Version))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// clients answers GET /clients: those connected, or with all=1 every session.
func (a admin) clients(w http.ResponseWriter, r *http.Request) {
	list := []Client{}
	for _, c := range a.Broker.Clients() {
		if c.Connected || r.FormValue("all") == "1" {
			list = append(list, clientOf(c))
		}
	}
	reply(w, list)
}

func clientOf(c broker.ClientState) Client {
	return Client{
		ClientID: c.ClientID, User: c.User, Version: c.Version.String(), Address: addressOf(c.Remote), Listener: c.Listener,
		Connected: c.Connected, Since: c.Since, Subscriptions: c.Subscriptions,
		InFlight: c.InFlight, QueuedMessages: c.QueuedMessages, QueuedBytes: c.QueuedBytes,
	}
}

func addressOf(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// subscriptions answers GET /subscriptions?client=ID.
func (a admin) subscriptions(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("client")
	if _, ok := a.Broker.Client(id); !ok {
		noSuchClient(w, id)
		return
	}
	list := []Subscription{}
	for _, s := range a.Broker.Subscriptions(id) {
		list = append(list, Subscription{s.Filter, byte(s.QoS), s.NoLocal, s.RetainAsPublished})
	}
	reply(w, list)
}

// kick answers POST /kick?client=ID, with forget=1 to end the session as well.
func (a admin) kick(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("client")
	if !a.Broker.Kick(id, mqtt.AdministrativeAction, r.FormValue("forget") == "1") {
		noSuchClient(w, id)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func noSuchClient(w http.ResponseWriter, id string) {
	http.Error(w, fmt.Sprintf("no client %q", id), http.StatusNotFound)
}

func (a admin) stats(w http.ResponseWriter, _ *http.Request) {
	st := a.Broker.Stats()
	dropped := make(map[string]int64)
	for r, n := range st.Dropped {
		dropped[r.String()] = n
	}
	reply(w, Stats{
		Version: a.Version, Started: st.Started, Connections: st.Connections, Connected: st.Connected, MaxConnected: st.MaxConnected,
		Sessions: st.Sessions, Subscriptions: st.Subscriptions, Retained: st.Retained, RetainedBytes: st.RetainedBytes,
		QueuedMessages: st.QueuedMessages, QueuedBytes: st.QueuedBytes, BytesReceived: st.BytesReceived, BytesSent: st.BytesSent,
		MessagesReceived: st.MessagesReceived, MessagesSent: st.MessagesSent, Refused: st.Refused, Dropped: dropped,
	})
}

// events answers GET /events: clients coming and going, as a stream of [Event], one JSON object a line.
func (a admin) events(w http.ResponseWriter, r *http.Request) {
	f := newFeed()
	a.stream(w, r, f, f.connections())
}

// trace answers GET /trace?client=ID&filter=FILTER, both optional: messages, as a stream like that of events.
func (a admin) trace(w http.ResponseWriter, r *http.Request) {
	f, client, filter := newFeed(), r.FormValue("client"), r.FormValue("filter")
	if filter == "" {
		filter = "#"
	} else if err := topic.ValidateFilter(filter, topic.Limits{}); err != nil {
		http.Error(w, fmt.Sprintf("not a topic filter: %v", err), http.StatusBadRequest)
		return
	}
	a.stream(w, r, f, f.messages(client, filter))
}

// stream writes events until the request ends. The header goes out at once: who has it knows that nothing is missed from here.
func (a admin) stream(w http.ResponseWriter, r *http.Request, f *feed, e broker.Events) {
	stop := a.Broker.Observe(e)
	defer stop()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out, flush := json.NewEncoder(w), http.NewResponseController(w).Flush
	err := flush()
	for err == nil {
		err = f.write(r.Context(), out, flush)
	}
}

// write waits for an event and writes it with all others that are there.
func (f *feed) write(ctx context.Context, out *json.Encoder, flush func() error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case p := <-f.events:
		if err := out.Encode(p.event()); err != nil {
			return err
		}
	}
	for range len(f.events) {
		if err := out.Encode((<-f.events).event()); err != nil {
			return err
		}
	}
	if n := f.lost.Swap(0); n > 0 {
		if err := out.Encode(Event{Time: time.Now(), Kind: Lost, Count: n}); err != nil {
			return err
		}
	}
	return flush()
}

func (a admin) reload(w http.ResponseWriter, _ *http.Request) {
	err := errors.New("there is nothing to reload")
	if a.Reload != nil {
		err = a.Reload()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a admin) shutdown(w http.ResponseWriter, _ *http.Request) {
	if a.Shutdown == nil {
		http.Error(w, "stopping is not offered here", http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	a.Shutdown()
}

// reply answers with JSON. An error can only be that the reader has gone.
func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
