package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"github.com/magpiemq/magpie/transport"
)

// announcer tells at the start what the broker does: in lines for people that a script can read as well, or, when logs are
// JSON, as log records.
type announcer struct {
	out io.Writer
	log *slog.Logger // nil means lines
}

var schemes = map[string]string{
	transport.TCP: "mqtt", transport.TLS: "mqtts", transport.WS: "ws", transport.WSS: "wss", transport.Unix: "unix",
}

// listening tells where a listener of MQTT is, with the port that the kernel chose.
func (a announcer) listening(l *transport.Listener, path string) {
	where := l.Addr().String()
	if abs, err := filepath.Abs(where); err == nil && l.Network() == transport.Unix {
		where = abs
	}
	url := schemes[l.Network()] + "://" + where + path
	if a.log != nil {
		a.log.Info("listening", "listener", l.Name(), "network", l.Network(), "address", l.Addr().String(), "url", url)
		return
	}
	a.line("listening on %s (%s)", url, l.Network())
}

// listeningHTTP tells where the HTTP listener is.
func (a announcer) listeningHTTP(l *transport.Listener) {
	url := "http://" + l.Addr().String()
	if l.Network() == transport.TLS {
		url = "https://" + l.Addr().String()
	}
	if a.log != nil {
		a.log.Info("listening", "listener", l.Name(), "network", "http", "address", l.Addr().String(), "url", url)
		return
	}
	a.line("listening on %s (http: /metrics /healthz /readyz, MQTT over WebSocket at /mqtt)", url)
}

// note tells something else, as a sentence.
func (a announcer) note(format string, args ...any) {
	if a.log != nil {
		a.log.Info(fmt.Sprintf(format, args...))
		return
	}
	a.line(format, args...)
}

// try tells how to use the broker, for a person only.
func (a announcer) try(listeners []*transport.Listener, login bool, console string) {
	if a.log != nil {
		return
	}
	for _, l := range listeners {
		if l.Network() == transport.TCP {
			flags := clientFlags(l.Addr(), login)
			a.line("try it: mosquitto_sub%s -t 'bins/#' -v   and   mosquitto_pub%s -t bins/7/level -m 93", flags, flags)
			a.line("    or: magpie sub%s -t 'bins/#' -v      and   magpie pub%s -t bins/7/level -m 93", flags, flags)
			break
		}
	}
	a.line("look into it: %s", console)
}

func (a announcer) line(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }

// clientFlags are what the client commands need to get to an address.
func clientFlags(addr net.Addr, login bool) string {
	var flags strings.Builder
	if a, ok := addr.(*net.TCPAddr); ok {
		if !a.IP.IsLoopback() && !a.IP.IsUnspecified() {
			fmt.Fprintf(&flags, " -h %s", a.IP)
		}
		if a.Port != 1883 {
			fmt.Fprintf(&flags, " -p %d", a.Port)
		}
	}
	if login {
		flags.WriteString(" -u USER -P PASSWORD")
	}
	return flags.String()
}
