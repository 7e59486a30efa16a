package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/magpiemq/magpie/api"
	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
	"github.com/magpiemq/magpie/transport"
)

// server is a running broker with everything around it. The limit of open files needs no care: the Go runtime raises the soft
// limit to the hard one when the process starts.
type server struct {
	load   func() (*config.Config, error) // reads the configuration again
	logs   *logging
	log    *slog.Logger
	preset slog.Level // when the configuration names no level

	broker    *broker.Broker
	disk      vfs.FS         // that holds the journal; nil for the system's
	store     *journal.Store // nil when messages are kept in memory
	failure   error          // why the process ends, when nobody has asked for it; set before stopping is closed
	access    *access
	health    api.Health
	listeners []*transport.Listener // of MQTT
	web       *webServer            // nil without HTTP
	admin     *webServer
	tasks     sync.WaitGroup

	stopOnce sync.Once
	stopping chan struct{} // closed when the process has to end

	reloading sync.Mutex // guards all below, and makes reloads wait for each other
	cfg       *config.Config
}

// adminSocket is the name of the admin interface's socket in the data directory.
const adminSocket = "admin.sock"

// start opens everything and tells about it. After an error nothing is left open.
func (s *server) start(tell announcer) (err error) {
	defer func() {
		if err != nil {
			s.abort()
		}
	}()
	tell.note("magpie %s: %s", versionString(), promise(s.cfg))
	if err := checkDataDir(s.cfg.Data); err != nil {
		return err
	}
	if err := s.openStore(); err != nil {
		return err
	}
	if err := s.startBroker(); err != nil {
		return err
	}
	if err := s.startAdmin(); err != nil {
		return err
	}
	for i := range s.cfg.Listeners {
		if err := s.listen(&s.cfg.Listeners[i], tell); err != nil {
			return err
		}
	}
	if err := s.startHTTP(tell); err != nil {
		return err
	}
	s.tasks.Go(s.serve)
	s.health.SetReady(true)
	return nil
}

// serve lets the broker accept from all listeners, and ends the process when that fails.
func (s *server) serve() {
	accept := make([]net.Listener, len(s.listeners))
	for i, l := range s.listeners {
		accept[i] = l
	}
	err := s.broker.Serve(context.Background(), accept...)
	select {
	case <-s.stopping: // no failure, whatever it looks like
	default:
		if err != nil {
			s.log.Error("the broker cannot go on", "reason", err)
			s.failure = err
		}
		s.stop()
	}
}

// journalFolder is the name of the journal in the data directory.
const journalFolder = "journal"

// promise says in words what an acknowledgement means.
func promise(cfg *config.Config) string {
	storage, _ := cfg.Storage()
	text := "what is acknowledged is on disk, synced"
	switch mode, _, _ := strings.Cut(storage.Label, ";"); {
	case mode == "memory":
		text = "messages are kept in memory: a restart forgets them"
	case mode != "durable":
		text = "what is acknowledged is written to disk, and synced every " + strings.TrimPrefix(mode, "interval=")
	}
	for _, t := range cfg.DurabilityByTopic {
		text += fmt.Sprintf("; %s: %s", t.Filter, t.Mode)
	}
	return text
}

// openStore opens the journal, when there is to be one.
func (s *server) openStore() error {
	storage, err := s.cfg.Storage()
	if err != nil || !storage.Kept {
		return err
	}
	if err := makeDataDir(s.cfg.Data); err != nil {
		return err
	}
	disk := s.disk
	if disk == nil {
		disk = vfs.OS{}
	}
	s.store, err = journal.OpenStore(disk, filepath.Join(s.cfg.Data, journalFolder), journal.StoreOptions{
		Log:    journal.Options{Interval: storage.Interval, SyncWithin: storage.SyncWithin, SegmentSize: int64(s.cfg.Journal.SegmentSize)},
		OnFull: s.diskFull, FullAt: float64(s.cfg.Journal.FullAt) / 100, CleanRate: int64(s.cfg.Journal.CleanRate),
	})
	return err
}

// diskFull tells the log that messages are refused because of the disk, or no more.
func (s *server) diskFull(full bool, used float64) {
	percent := int(100*used + 0.5)
	if full {
		s.log.Error("the disk is nearly full: messages of QoS 1 and 2 and retained ones are refused until there is room", "folder", s.cfg.Data, "used_percent", percent)
		return
	}
	s.log.Info("there is room on the disk again: messages are accepted", "folder", s.cfg.Data, "used_percent", percent)
}

// brokerStore is the store as the broker takes it: nil when there is none.
func (s *server) brokerStore() store.Store {
	if s.store == nil {
		return nil
	}
	return s.store
}

func (s *server) startBroker() error {
	var faults []error
	var err error
	if s.access, faults, err = newAccess(s.cfg, s.log); err != nil {
		return usage(err, "")
	}
	for _, f := range faults {
		s.log.Error("what this file decides is denied until it is repaired", "reason", f)
	}
	for _, w := range exposed(s.cfg) {
		s.log.Warn(w)
	}
	storage, _ := s.cfg.Storage()
	limits := s.cfg.Limits.Broker()
	if limits.Memory, err = s.memoryLimit(); err != nil {
		return err
	}
	holdMemory(limits.Memory)
	b, err := broker.New(broker.Config{
		Store: s.brokerStore(), Durability: storage.Label, Durabilities: storage.ByTopic,
		Authenticator: s.access, Authorizer: s.access, Enhanced: []broker.EnhancedAuthenticator{scramMethod{s.access}},
		Limits: limits, Listeners: listenerConfigs(s.cfg), Logger: s.log, SysInterval: s.cfg.Interval(),
		Version: "magpie " + versionString(), CheckPayloadFormat: s.cfg.CheckPayloadFormat, StrictClientIDs: s.cfg.StrictClientIDs,
		ResponsePrefix: s.cfg.ResponsePrefix, DollarTopics: s.cfg.DollarTopics,
		IO: s.cfg.IO.Broker(), Loops: int(s.cfg.IO.Loops), Pace: time.Duration(s.cfg.IO.Pace),
	})
	switch {
	case err != nil && s.store != nil:
		return err
	case err != nil:
		return usage(fmt.Errorf("limits: %w", err), "")
	}
	s.broker = b
	s.access.start(b.Reauthorize)
	return nil
}

func listenerConfigs(cfg *config.Config) map[string]broker.ListenerConfig {
	m := make(map[string]broker.ListenerConfig)
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		m[l.Transport().Name] = broker.ListenerConfig{MaxConnections: max(0, int(l.MaxConnections)), MaxPacketSize: int(l.MaxPacketSize)}
	}
	return m
}

// listen opens one listener of MQTT.
func (s *server) listen(l *config.Listener, tell announcer) error {
	t := l.Transport()
	ln, err := transport.Listen(s.observed(t))
	if err != nil {
		return hinted(l.Pos.Errorf("%w", err), listenHint(err, t.Network))
	}
	s.listeners = append(s.listeners, ln)
	path := ""
	if t.Network == transport.WS || t.Network == transport.WSS {
		if path = "/mqtt"; t.WS != nil && t.WS.Path != "" {
			path = t.WS.Path
		}
	}
	tell.listening(ln, path)
	return nil
}

// observed adds the log to a listener's configuration.
func (s *server) observed(t transport.Config) transport.Config {
	t.Log = s.log.With("listener", t.Name)
	limit := &lineLimit{}
	t.HandshakeFailed = func(remote net.Addr, err error) {
		if limit.allow(time.Now()) {
			t.Log.Info("handshake failed", "remote", remote.String(), "reason", err)
		}
	}
	return t
}

// lineLimit lets pass ten log lines a second: strangers cause them at will.
type lineLimit struct {
	mu    sync.Mutex // guards all below
	since time.Time
	lines int
}

func (l *lineLimit) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= time.Second {
		l.since, l.lines = now, 0
	}
	l.lines++
	return l.lines <= 10
}

func listenHint(err error, network string) string {
	switch text := err.Error(); {
	case strings.Contains(text, "address already in use"):
		return "does another broker run there? choose another address with --mqtt, --mqtts or --ws; port 0 is any free one"
	case strings.Contains(text, "permission denied") && network != transport.Unix:
		return "ports below 1024 are for root: choose a higher one"
	}
	return ""
}

// startHTTP opens the HTTP listener. That the default address is taken is no reason not to run.
func (s *server) startHTTP(tell announcer) error {
	h := &s.cfg.HTTP
	if h.Address == config.Off {
		return nil
	}
	t := h.Transport()
	ws, err := transport.WSHandler(config.HTTPName, h.WebSocket(), func(c *transport.Conn) { s.broker.ServeConn(c) })
	if err != nil {
		return usage(h.Pos.Errorf("http: %w", err), "")
	}
	ln, err := transport.Listen(s.observed(t))
	switch {
	case err != nil && h.Address == "":
		tell.note("no HTTP: %s is taken (choose another address with --http)", t.Address)
		return nil
	case err != nil:
		return hinted(h.Pos.Errorf("%w", err), "choose another address with --http, or --http off")
	}
	public := api.Public{Broker: s.broker, Version: versionString(), Health: &s.health, MQTT: ws, Local: t.Loopback()}
	s.web = serveHTTP(ln, public.Handler(), s.log)
	s.web.server.ReadTimeout, s.web.server.WriteTimeout = 30*time.Second, 30*time.Second // not for the streams of the admin interface
	s.web.serve()
	tell.listeningHTTP(ln)
	return nil
}

// startAdmin makes the data directory and opens the admin interface in it: for this user alone.
func (s *server) startAdmin() error {
	if err := makeDataDir(s.cfg.Data); err != nil {
		return err
	}
	path := filepath.Join(s.cfg.Data, adminSocket)
	if most := socketPathMax(); len(path) > most {
		return hinted(fmt.Errorf("the path of the data directory is too long: %s has %d bytes, a socket takes %d", path, len(path), most),
			"choose a shorter one with --data DIR")
	}
	ln, err := transport.Listen(transport.Config{Name: "admin", Network: transport.Unix, Address: path, UnixMode: 0o600, Log: s.log})
	if err != nil {
		return hinted(err, "does another broker run with this data directory? choose another with --data DIR")
	}
	s.admin = serveHTTP(ln, api.Admin(api.AdminConfig{
		Broker: s.broker, Version: versionString(), Shutdown: s.stop, Reload: s.reload, Backup: s.backup(),
	}), s.log)
	s.admin.serve()
	return nil
}

// backup is what writes a backup of the store; nil when there is none.
func (s *server) backup() func(context.Context, io.Writer) error {
	if s.store == nil {
		return nil
	}
	return func(ctx context.Context, w io.Writer) error {
		_, err := s.store.Backup(ctx, w, "magpie "+versionString())
		return err
	}
}

// socketPathMax is how long the path of a Unix socket may be, in bytes.
func socketPathMax() int {
	if runtime.GOOS == "linux" || runtime.GOOS == "windows" {
		return 107
	}
	return 103
}

// stop makes the process end. It returns at once.
func (s *server) stop() { s.stopOnce.Do(func() { close(s.stopping) }) }

// shutdown ends everything. When ctx is done first, connections are cut and its error is returned.
func (s *server) shutdown(ctx context.Context) error {
	s.stop()
	s.health.SetReady(false)
	err := s.broker.Shutdown(ctx)
	s.close()
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	return err
}

// abort ends what a start that failed has opened.
func (s *server) abort() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.stop()
	if s.broker != nil {
		_ = s.broker.Shutdown(ctx) // whoever has connected already is cut
	}
	s.close()
	if s.store != nil {
		_ = s.store.Close()
	}
}

// close ends what is around the broker.
func (s *server) close() {
	for _, l := range s.listeners {
		_ = l.Close() // the broker has closed those that it accepted from
	}
	for _, w := range []*webServer{s.web, s.admin} {
		if w != nil {
			w.close()
		}
	}
	s.tasks.Wait()
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.access != nil {
		s.access.close()
	}
}

// reload reads the configuration and all files it names again. If anything is wrong the old configuration stays in force, which
// is logged in one line. Certificates are renewed one by one: a bad one keeps its own listener's old one.
func (s *server) reload() error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	next, err := s.reconfigured()
	if err == nil {
		err = s.access.replace(next, s.broker.Reauthorize)
	}
	if err != nil {
		err = fmt.Errorf("keeping the old configuration: %w", err)
		s.log.Error("reload failed", "reason", err)
		return err
	}
	s.cfg = next
	s.logs.setLevel(next.Log.Level, s.preset)
	s.broker.Reauthorize()
	if err := s.reloadCertificates(); err != nil {
		err = fmt.Errorf("keeping the old certificates: %w", err)
		s.log.Error("reload failed", "reason", err)
		return err
	}
	s.log.Info("configuration reloaded")
	return nil
}

// reconfigured returns the configuration with what can change in a running broker, and warns about the rest.
func (s *server) reconfigured() (*config.Config, error) {
	fresh, err := s.load()
	if err != nil {
		return nil, err
	}
	if changed := config.Changed(s.cfg, fresh); len(changed) > 0 {
		s.log.Warn("some changes take effect after a restart only", "keys", strings.Join(changed, ", "))
	}
	next := *s.cfg
	next.Auth, next.Log.Level = fresh.Auth, fresh.Log.Level
	next.Auth.Throttle = s.cfg.Auth.Throttle
	return &next, checkOpen(&next)
}

func (s *server) reloadCertificates() error {
	var errs []error
	for _, l := range s.listeners {
		if err := l.Reload(); err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.Name(), err))
		}
	}
	if s.web != nil {
		if err := s.web.listener.Reload(); err != nil {
			errs = append(errs, fmt.Errorf("http: %w", err))
		}
	}
	return errors.Join(errs...)
}

// webServer is an HTTP server on a listener, hardened against peers that are slow or many.
type webServer struct {
	listener *transport.Listener
	server   *http.Server
	done     chan struct{}

	mu    sync.Mutex // guards conns
	conns int
}

// maxWebConns bounds the connections of HTTP at a time; those of MQTT over WebSocket are the broker's to count.
const maxWebConns = 1000

// serveHTTP prepares a server; serve starts it. Contexts of requests end when it closes.
func serveHTTP(ln *transport.Listener, h http.Handler, log *slog.Logger) *webServer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &webServer{listener: ln, done: make(chan struct{})}
	w.server = &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState: w.count,
	}
	w.server.RegisterOnShutdown(cancel)
	return w
}

func (w *webServer) serve() {
	go func() {
		defer close(w.done)
		_ = w.server.Serve(w.listener) // always ErrServerClosed, or what close is about
	}()
}

// count closes connections that are too many.
func (w *webServer) count(c net.Conn, state http.ConnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch state {
	case http.StateNew:
		if w.conns++; w.conns > maxWebConns {
			_ = c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		w.conns--
	}
}

// close lets requests under way finish for a moment, then cuts them.
func (w *webServer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if w.server.Shutdown(ctx) != nil {
		_ = w.server.Close()
	}
	<-w.done
}
