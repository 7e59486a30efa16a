package mosquitto

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// finish decides what the file as a whole says.
func (c *Config) finish() {
	if c.plain.port != 0 || c.plain.host != "" || len(c.Listeners) == 0 {
		c.plain.MaxConnections = max(c.plain.MaxConnections, 0)
		if c.plain.port == 0 && c.plain.host == "" {
			c.plain.host = "127.0.0.1" // Mosquitto 2 without a listener is for this machine
		}
		if c.plain.port == 0 {
			c.plain.port = 1883
		}
		c.Listeners = append([]*Listener{&c.plain}, c.Listeners...)
	}
	for _, l := range c.Listeners {
		if !l.Unix {
			l.Address = net.JoinHostPort(strings.Trim(l.host, "[]"), strconv.Itoa(l.port))
		}
	}
	if c.AllowAnonymous == nil && !c.local() {
		no := false
		c.AllowAnonymous = &no // as Mosquitto 2 has it
	}
}

// local says whether nobody on another machine can connect.
func (c *Config) local() bool {
	for _, l := range c.Listeners {
		ip := net.ParseIP(l.host)
		if !l.Unix && l.host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

// Paths are the files that a configuration names, as it shall name them. Empty ones are left out.
type Paths struct {
	Data, Passwords, ACL string
}

// YAML returns the configuration file. Relative paths in it are those of the mosquitto.conf, made absolute.
func (c *Config) YAML(p Paths) []byte {
	var y yaml
	y.line(0, "# Made of %s by magpie import; magpie check config tries it.", strings.ReplaceAll(c.file, "\n", " "))
	y.text(0, "data", p.Data)
	if c.Persistence {
		y.line(0, "durability: durable")
	} else {
		y.line(0, "durability: memory # persistence was off")
	}
	for _, s := range c.Others {
		y.line(0, "%s: %s", s.Key, s.Value)
	}
	if c.LogLevel != "" {
		y.line(0, "log:")
		y.line(1, "level: %s", c.LogLevel)
	}
	y.line(0, "listeners:")
	for _, l := range c.Listeners {
		y.listener(l)
	}
	y.auth(c, p)
	if len(c.Limits) > 0 {
		y.line(0, "limits:")
	}
	for _, s := range c.Limits {
		y.line(1, "%s: %s", s.Key, s.Value)
	}
	return []byte(y.String())
}

// yaml is a file that is being written.
type yaml struct{ strings.Builder }

// line writes a line, indented by so many levels.
func (y *yaml) line(level int, format string, args ...any) {
	fmt.Fprintf(y, strings.Repeat("  ", level)+format+"\n", args...)
}

// text writes a key with a string, unless that is empty.
func (y *yaml) text(level int, key, value string) {
	if value != "" {
		y.line(level, "%s: %s", key, quoted(value))
	}
}

// quoted writes a string so that YAML reads nothing else into it.
func quoted(s string) string { return strconv.Quote(strings.ToValidUTF8(s, "\uFFFD")) }

// absolute is a path that means the same everywhere.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func (y *yaml) listener(l *Listener) {
	y.line(1, "- network: %s", l.network())
	y.text(2, "address", l.address())
	if l.Cert != "" {
		y.tls(l)
	}
	if l.MaxConnections > 0 {
		y.line(2, "max_connections: %d", l.MaxConnections)
	}
	if l.AllowAnonymous != nil {
		y.line(2, "allow_anonymous: %v", *l.AllowAnonymous)
	}
	if len(l.Origins) > 0 && l.WebSocket {
		y.line(2, "ws:")
		y.line(3, "origins:")
		for _, o := range l.Origins {
			y.line(4, "- %s", quoted(o))
		}
	}
}

func (l *Listener) address() string {
	if l.Unix {
		return absolute(l.Address)
	}
	return l.Address
}

func (l *Listener) network() string {
	switch {
	case l.Unix:
		return "unix"
	case l.WebSocket && l.Cert != "":
		return "wss"
	case l.WebSocket:
		return "ws"
	case l.Cert != "":
		return "tls"
	}
	return "tcp"
}

func (y *yaml) tls(l *Listener) {
	y.line(2, "tls:")
	y.text(3, "cert", absolute(l.Cert))
	y.text(3, "key", absolute(l.Key))
	y.text(3, "min_version", l.MinTLS)
	if l.CA == "" || !l.RequireCert {
		return
	}
	y.text(3, "client_ca", absolute(l.CA))
	y.line(3, "client_auth: require")
	if l.CertIsUser {
		y.line(3, "identity: cn")
	}
}

func (y *yaml) auth(c *Config, p Paths) {
	if c.AllowAnonymous == nil && p.Passwords == "" && p.ACL == "" {
		return
	}
	y.line(0, "auth:")
	if c.AllowAnonymous != nil {
		y.line(1, "allow_anonymous: %v", *c.AllowAnonymous)
	}
	y.text(1, "password_file", p.Passwords)
	y.text(1, "acl_file", p.ACL)
}
