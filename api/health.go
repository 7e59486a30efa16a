package api

import (
	"io"
	"net/http"
	"sync/atomic"
)

// Health answers /healthz and /readyz. The zero value is alive and not ready. It is safe for many goroutines.
type Health struct {
	ready atomic.Bool
}

// SetReady says whether new clients are welcome: true once the listeners are open, false when the broker drains.
func (h *Health) SetReady(ready bool) { h.ready.Store(ready) }

// Live answers /healthz: that the process runs.
func (h *Health) Live(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") }

// Ready answers /readyz: whether new clients are welcome.
func (h *Health) Ready(w http.ResponseWriter, _ *http.Request) {
	if h.ready.Load() {
		say(w, http.StatusOK, "ok")
		return
	}
	say(w, http.StatusServiceUnavailable, "not ready: starting or stopping")
}

func say(w http.ResponseWriter, code int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, line+"\n")
}
