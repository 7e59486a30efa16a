package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// ErrProxyLogin is the error of a proxy that wants a user and a password, or other ones.
var ErrProxyLogin = errors.New("user or password refused")

// ProxyError says why there is no connection through a proxy: it cannot be reached, or it refuses.
type ProxyError struct {
	Proxy string // its URL, without the password
	Err   error
}

func (e *ProxyError) Error() string { return "proxy " + e.Proxy + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *ProxyError) Unwrap() error { return e.Err }

var defaultProxyPort = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// proxy returns the proxy for t, nil for none.
func (d *DialConfig) proxy(t target) (*url.URL, error) {
	if d.Direct || d.Proxy != nil {
		if d.Direct {
			return nil, nil
		}
		return d.Proxy, CheckProxy(d.Proxy)
	}
	value := proxySetting(t.network)
	if value == "" || bypass(t.host, t.address, env("NO_PROXY")) {
		return nil, nil
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("proxy in the environment is not a URL") // without its text: it may hold a password
	}
	return u, CheckProxy(u)
}

// CheckProxy says what is wrong with the URL of a proxy that can never be used.
func CheckProxy(u *url.URL) error {
	if defaultProxyPort[u.Scheme] == "" {
		return fmt.Errorf("proxy %s: unknown scheme %q: use http, https or socks5", u.Redacted(), u.Scheme)
	}
	if u.Hostname() == "" {
		return fmt.Errorf("proxy %s has no host", u.Redacted())
	}
	return nil
}

// proxySetting returns what the environment says for connections of a network.
func proxySetting(network string) string {
	names := map[string]string{WS: "HTTP_PROXY", WSS: "HTTPS_PROXY"}
	if v := env(names[network]); v != "" {
		return v
	}
	return env("ALL_PROXY")
}

func env(name string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return os.Getenv(strings.ToLower(name))
}

// bypass reports whether host is this machine or in the list NO_PROXY: "*",
// names (which cover their subdomains), addresses and networks, each but the
// networks optionally with a port.
func bypass(host, address, list string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	ip, _ := netip.ParseAddr(host)
	ip = ip.Unmap()
	if host == "localhost" || ip.IsLoopback() {
		return true
	}
	_, port, _ := cutLast(address, ":")
	for entry := range strings.SplitSeq(strings.ToLower(list), ",") {
		if matchNoProxy(strings.TrimSpace(entry), host, port, ip) {
			return true
		}
	}
	return false
}

func matchNoProxy(entry, host, port string, ip netip.Addr) bool {
	if entry == "*" {
		return true
	}
	if network, err := netip.ParsePrefix(entry); err == nil {
		return network.Contains(ip)
	}
	if h, p, err := net.SplitHostPort(entry); err == nil {
		if p != port {
			return false
		}
		entry = h
	}
	if a, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
		return a.Unmap() == ip
	}
	entry = strings.TrimPrefix(strings.TrimPrefix(entry, "*"), ".")
	return entry != "" && (host == entry || strings.HasSuffix(host, "."+entry))
}

// throughProxy opens a connection to address through the proxy.
func (d *DialConfig) throughProxy(ctx context.Context, proxy *url.URL, address string) (net.Conn, error) {
	port := proxy.Port()
	if port == "" {
		port = defaultProxyPort[proxy.Scheme]
	}
	conn, err := d.open(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, err
	}
	out := conn
	err = guard(ctx, conn, func() error {
		switch proxy.Scheme {
		case "https":
			// The proxy is another host than the server: the caller's TLS settings are not for it.
			t := tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
			out = t
			return connectHTTP(t, proxy, address)
		case "http":
			return connectHTTP(conn, proxy, address)
		default:
			return connectSOCKS5(conn, proxy.User, address)
		}
	})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return out, nil
}

// connectHTTP asks an HTTP proxy for a tunnel. It reads the answer and not one
// byte of what follows.
func connectHTTP(conn net.Conn, proxy *url.URL, address string) error {
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		secret := base64.StdEncoding.EncodeToString([]byte(proxy.User.Username() + ":" + password))
		r.Header.Set("Proxy-Authorization", "Basic "+secret)
	}
	if err := r.Write(conn); err != nil {
		return fmt.Errorf("sending CONNECT: %w", err)
	}
	head, err := readThrough(conn, nil, "\r\n\r\n", maxRequestHeader)
	if err != nil {
		return fmt.Errorf("reading the answer to CONNECT: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), r)
	if err != nil {
		return fmt.Errorf("reading the answer to CONNECT: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("no tunnel to %s: status %d %s", address, resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.StatusCode == http.StatusProxyAuthRequired {
		err = fmt.Errorf("%w: %w", err, ErrProxyLogin)
	}
	return err
}
