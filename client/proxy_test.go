package client

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// proxy is one of this test. It opens a stream to wherever it is asked to.
type proxy struct {
	url   string
	greet func(near net.Conn, r *bufio.Reader) (far net.Conn, err error)
	group sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool
	passed int
	over   bool
}

// proxyKind is how a proxy is asked.
type proxyKind struct {
	scheme string
	greet  func(near net.Conn, r *bufio.Reader) (far net.Conn, err error)
}

// startProxy starts a proxy that ends with the test. The login is what its URL shows.
func startProxy(t *testing.T, kind proxyKind, login string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: kind.scheme, Host: ln.Addr().String()}
	if user, password, ok := strings.Cut(login, ":"); ok {
		u.User = url.UserPassword(user, password)
	}
	p := &proxy{url: u.String(), greet: kind.greet, open: make(map[net.Conn]bool)}
	p.group.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			p.group.Go(func() { p.serve(nc) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.close()
		p.group.Wait()
	})
	return p
}

func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for nc := range p.open {
		_ = nc.Close()
	}
}

// tunnels returns how many it has opened.
func (p *proxy) tunnels() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// keep notes a stream that is closed at the end.
func (p *proxy) keep(nc net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[nc] = true; p.over {
		_ = nc.Close()
	}
}

func (p *proxy) drop(nc net.Conn) {
	_ = nc.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, nc)
}

func (p *proxy) serve(near net.Conn) {
	p.keep(near)
	defer p.drop(near)
	r := bufio.NewReader(near)
	far, err := p.greet(near, r)
	if err != nil {
		return
	}
	p.keep(far)
	defer p.drop(far)
	p.mu.Lock()
	p.passed++
	p.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	})
	_, _ = io.Copy(far, r)
	_ = far.Close()
	back.Wait()
}

var errRefused = errors.New("refused")

// connectProxy is asked with HTTP CONNECT, and lets in who brings the login, or everybody.
func connectProxy(login string) proxyKind {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(login))
	return proxyKind{"http", func(near net.Conn, r *bufio.Reader) (net.Conn, error) {
		request, err := http.ReadRequest(r)
		if err != nil {
			return nil, err
		}
		answer := func(status string) {
			_, _ = io.WriteString(near, "HTTP/1.1 "+status+"\r\n\r\n")
		}
		if login != "" && request.Header.Get("Proxy-Authorization") != want {
			answer("407 Proxy Authentication Required")
			return nil, errRefused
		}
		far, err := net.Dial("tcp", request.Host)
		if request.Method != http.MethodConnect || err != nil {
			answer("502 Bad Gateway")
			return nil, errRefused
		}
		answer("200 OK")
		return far, nil
	}}
}

// socksProxy is asked as RFC 1928 says.
func socksProxy(login string) proxyKind {
	return proxyKind{"socks5", func(near net.Conn, r *bufio.Reader) (net.Conn, error) {
		if err := socksLogin(near, r, login); err != nil {
			return nil, err
		}
		address, err := socksAddress(r)
		if err != nil {
			return nil, err
		}
		far, err := net.Dial("tcp", address)
		status := byte(0)
		if err != nil {
			status = 5
		}
		_, _ = near.Write([]byte{5, status, 0, 1, 0, 0, 0, 0, 0, 0})
		return far, err
	}}
}

// socksLogin is the greeting, and the user and password of RFC 1929.
func socksLogin(near net.Conn, r *bufio.Reader, login string) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return err
	}
	if login == "" {
		_, err := near.Write([]byte{5, 0})
		return err
	}
	if !strings.Contains(string(methods), "\x02") {
		_, _ = near.Write([]byte{5, 0xFF})
		return errRefused
	}
	_, _ = near.Write([]byte{5, 2})
	_, _ = r.ReadByte() // the version
	user, _ := readShort(r)
	password, err := readShort(r)
	if err != nil {
		return err
	}
	if user+":"+password != login {
		_, _ = near.Write([]byte{1, 1})
		return errRefused
	}
	_, err = near.Write([]byte{1, 0})
	return err
}

// socksAddress reads a request to connect.
func socksAddress(r *bufio.Reader) (string, error) {
	var head [4]byte // version, command, reserved, type
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	var host string
	switch head[3] {
	case 3:
		host, _ = readShort(r)
	case 1:
		ip := make(net.IP, net.IPv4len)
		_, _ = io.ReadFull(r, ip)
		host = ip.String()
	default:
		return "", errRefused
	}
	var port [2]byte
	_, err := io.ReadFull(r, port[:])
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), err
}

// readShort reads a text behind a byte with its length.
func readShort(r *bufio.Reader) (string, error) {
	n, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return string(b), err
}
