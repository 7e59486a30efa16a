package config

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/topic"
	"github.com/magpiemq/magpie/transport"
)

// Validate returns what does not go together. It opens no file.
func (c *Config) Validate() (errs []error) {
	names := map[string]bool{HTTPName: true}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		if err := l.validate(); err != nil {
			errs = append(errs, l.Pos.Errorf("%w", err))
		}
		if name := l.Transport().Name; names[name] {
			errs = append(errs, l.Pos.Errorf("the listener name %q is taken: give each listener a name of its own", name))
		} else {
			names[name] = true
		}
	}
	if err := c.HTTP.validate(); err != nil {
		errs = append(errs, c.HTTP.Pos.Errorf("http: %w", err))
	}
	if err := c.Auth.validate(); err != nil {
		errs = append(errs, c.Auth.Pos.Errorf("auth: %w", err))
	}
	if _, err := c.Storage(); err != nil {
		errs = append(errs, err)
	}
	for _, t := range c.DollarTopics {
		if err := validateDollar(t); err != nil {
			errs = append(errs, c.Pos.Errorf("dollar_topics: %w", err))
		}
	}
	if c.ResponsePrefix != "" {
		if err := topic.ValidateName(c.ResponsePrefix, topic.Limits{}); err != nil {
			errs = append(errs, c.Pos.Errorf("response_prefix: %w", err))
		}
	}
	return errs
}

func validateDollar(t string) error {
	switch {
	case !strings.HasPrefix(t, "$") || strings.ContainsAny(t, "/+#"):
		return fmt.Errorf("%q is not the first level of a topic that begins with $", t)
	case t == "$SYS" || t == "$share":
		return fmt.Errorf("%s is the broker's own: clients cannot publish to it", t)
	}
	return nil
}

func (l *Listener) validate() error {
	switch webSocket := l.Network == transport.WS || l.Network == transport.WSS; {
	case l.WS != nil && !webSocket:
		return fmt.Errorf("network %s takes no ws settings: use ws or wss", l.Network)
	case l.UnixMode != 0 && l.Network != transport.Unix:
		return fmt.Errorf("network %s takes no unix_mode", l.Network)
	}
	if l.TLS != nil {
		if err := l.TLS.validate(); err != nil {
			return err
		}
	}
	return l.Transport().Validate()
}

func (t *TLS) validate() error {
	switch {
	case (t.Cert == "") != (t.Key == ""):
		return t.Pos.Errorf("tls needs both cert and key")
	case t.Cert == "" && len(t.Certificates) == 0:
		return t.Pos.Errorf("tls needs cert and key")
	case t.Identity != "" && (t.ClientAuth == "" || t.ClientAuth == "none"):
		return t.Pos.Errorf("identity needs client certificates: set client_auth to request or require")
	}
	return nil
}

// HTTPName is the name of the HTTP listener, for the connections of its /mqtt.
const HTTPName = "http"

func (h *HTTP) validate() error {
	if h.Address == Off {
		return nil
	}
	if h.TLS != nil && h.TLS.Identity != "" {
		return h.TLS.Pos.Errorf("identity is for listeners, not for http")
	}
	if h.TLS != nil {
		if err := h.TLS.validate(); err != nil {
			return err
		}
	}
	return h.Transport().Validate()
}

func (a *Auth) validate() error {
	if a.Scram && a.PasswordFile == "" {
		return fmt.Errorf("scram needs a password_file")
	}
	if w := a.HTTP; w != nil {
		if w.ConnectURL == "" && w.AccessURL == "" {
			return w.Pos.Errorf("neither connect_url nor access_url is given")
		}
		for _, s := range []string{w.ConnectURL, w.AccessURL} {
			if u, err := url.Parse(s); s != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
				return w.Pos.Errorf("%q is not a URL like https://host/path", s)
			}
		}
	}
	return nil
}

// Transport returns the listener as transport.Listen wants it.
func (l *Listener) Transport() transport.Config {
	t := transport.Config{
		Name: l.Name, Network: l.Network, Address: l.Address, TLS: l.TLS.transport(),
		ProxyProtocol: prefixes(l.ProxyProtocol), UnixMode: fs.FileMode(l.UnixMode),
	}
	if t.Name == "" {
		t.Name = l.Network + "://" + l.Address
	}
	if l.Network == transport.Unix && l.Pos.File != "" && !filepath.IsAbs(l.Address) {
		t.Address = filepath.Join(filepath.Dir(l.Pos.File), l.Address)
	}
	if l.WS != nil {
		t.WS = &transport.WSConfig{Path: l.WS.Path, Origins: l.WS.Origins, TrustedProxies: prefixes(l.WS.TrustedProxies)}
	}
	return t
}

// Transport returns the listener for HTTP, not yet for MQTT above it.
func (h *HTTP) Transport() transport.Config {
	t := transport.Config{Name: HTTPName, Network: transport.TCP, Address: h.Address, TLS: h.TLS.transport()}
	if t.TLS != nil {
		t.Network = transport.TLS
	}
	if t.Address == "" {
		t.Address = DefaultHTTP
	}
	return t
}

// WebSocket returns the settings of /mqtt.
func (h *HTTP) WebSocket() transport.WSConfig {
	return transport.WSConfig{Origins: h.Origins, TrustedProxies: prefixes(h.TrustedProxies)}
}

func (t *TLS) transport() *transport.TLSConfig {
	if t == nil {
		return nil
	}
	c := &transport.TLSConfig{ClientCA: t.ClientCA, ClientAuth: transport.ClientAuth(t.ClientAuth)}
	if t.Cert != "" {
		c.Certificates = append(c.Certificates, transport.CertFiles{Cert: t.Cert, Key: t.Key})
	}
	for _, f := range t.Certificates {
		c.Certificates = append(c.Certificates, transport.CertFiles(f))
	}
	if t.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	return c
}

func prefixes(ps []Prefix) (out []netip.Prefix) {
	for _, p := range ps {
		out = append(out, netip.Prefix(p))
	}
	return out
}

// Broker returns the limits as the broker takes them: fields of the same name, the zero ones its defaults.
func (l *Limits) Broker() broker.Limits {
	var b broker.Limits
	to, from := reflect.ValueOf(&b).Elem(), reflect.ValueOf(l).Elem()
	for i := range from.NumField() {
		field := to.FieldByName(from.Type().Field(i).Name)
		field.Set(from.Field(i).Convert(field.Type()))
	}
	return b
}

// Interval returns how often $SYS is published, as the broker takes it.
func (c *Config) Interval() time.Duration { return time.Duration(c.SysInterval) }

// Changed returns the keys that differ between two configurations and that a running broker cannot change.
func Changed(old, fresh *Config) (names []string) {
	a, b := reflect.ValueOf(old).Elem(), reflect.ValueOf(fresh).Elem()
	for _, f := range keys(a.Type()) {
		name := f.Tag.Get("yaml")
		x, y := a.FieldByIndex(f.Index), b.FieldByIndex(f.Index)
		switch name {
		case "auth":
			name, x, y = "auth.throttle", x.FieldByName("Throttle"), y.FieldByName("Throttle")
		case "log":
			name, x, y = "log.format", x.FieldByName("Format"), y.FieldByName("Format")
		}
		if !same(x, y) {
			names = append(names, name)
		}
	}
	return names
}

// same reports whether two values are equal, wherever in the file they stand.
func same(x, y reflect.Value) bool {
	switch x.Kind() {
	case reflect.Pointer:
		return x.IsNil() == y.IsNil() && (x.IsNil() || same(x.Elem(), y.Elem()))
	case reflect.Slice:
		if x.Len() != y.Len() {
			return false
		}
		for i := range x.Len() {
			if !same(x.Index(i), y.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		if x.Type() == reflect.TypeFor[Pos]() {
			return true
		}
		if x.Type() != reflect.TypeFor[Prefix]() {
			for i := range x.NumField() {
				if !same(x.Field(i), y.Field(i)) {
					return false
				}
			}
			return true
		}
	}
	return reflect.DeepEqual(x.Interface(), y.Interface())
}

// Broker returns the core as the broker knows it.
func (io *IO) Broker() broker.IO {
	switch io.Core {
	case "reactor":
		return broker.IOReactor
	case "goroutine":
		return broker.IOGoroutine
	}
	return broker.IOAuto
}
