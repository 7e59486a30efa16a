package api

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/magpiemq/magpie/broker"
)

// Public is what everybody may see who can reach the HTTP listener.
type Public struct {
	Broker  *broker.Broker
	Version string
	Health  *Health
	MQTT    http.Handler // serves /mqtt: MQTT over WebSocket
	Local   bool         // the listener is for this machine alone: requests that name another host are refused
}

// Handler returns the handler of the HTTP listener. Nothing of [Admin] is in it.
func (p Public) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", Metrics(p.Broker, p.Version))
	mux.HandleFunc("GET /healthz", p.Health.Live)
	mux.HandleFunc("GET /readyz", p.Health.Ready)
	mux.Handle("/mqtt", p.MQTT)
	if p.Local {
		return localOnly(mux)
	}
	return mux
}

// localOnly refuses requests whose Host is a name of the outside. Any web site can have its own name resolve to 127.0.0.1; a
// browser would then count its scripts as coming from the very host they connect to, and let them talk to the broker.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !localHost(r.Host) {
			http.Error(w, "this address is for the machine itself: use localhost or 127.0.0.1", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localHost reports whether a Host header is one that no outsider's name can be: an IP address, or localhost.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	_, err := netip.ParseAddr(host)
	return err == nil || host == "" || strings.EqualFold(host, "localhost")
}
