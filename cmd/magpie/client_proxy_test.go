package main

import (
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// proxy is what stands between a command and its broker in a script, to break what they say to each other.
type proxy struct {
	ln   net.Listener
	done sync.WaitGroup

	mu      sync.Mutex // guards all below
	changed sync.Cond
	target  string // address of the broker
	mode    string // "up", "down": connections are closed at once, or "mute": nothing is answered
	cuts    []int  // bytes that a connection carries to the broker before it is cut, one connection after the other
	turned  int    // connections that were closed at once
	conns   map[net.Conn]bool
	over    bool
}

func newProxy(target string, cuts []int) (*proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{ln: ln, target: target, mode: "up", cuts: cuts, conns: make(map[net.Conn]bool)}
	p.changed.L = &p.mu
	p.done.Go(p.serve)
	return p, nil
}

func (p *proxy) serve() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.done.Go(func() { p.carry(c) })
	}
}

// carry is the life of a connection.
func (p *proxy) carry(from net.Conn) {
	defer from.Close()
	target, mode, limit := p.admit(from)
	defer p.forget(from)
	switch mode {
	case "down":
		return
	case "mute":
		_, _ = io.Copy(io.Discard, from) // until it is cut
		return
	}
	to, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}()
	if limit > 0 {
		_, _ = io.CopyN(to, from, int64(limit))
		return
	}
	_, _ = io.Copy(to, from)
}

func (p *proxy) admit(c net.Conn) (target, mode string, limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return "", "down", 0
	}
	p.conns[c] = true
	if p.mode == "down" {
		p.turned++
		p.changed.Broadcast()
	}
	if p.mode == "up" && len(p.cuts) > 0 {
		limit, p.cuts = p.cuts[0], p.cuts[1:]
	}
	return p.target, p.mode, limit
}

func (p *proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// set changes the mode, cutting what there is.
func (p *proxy) set(mode string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode, p.turned = mode, 0
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) close() {
	_ = p.ln.Close()
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	p.set("down")
	p.done.Wait()
}

func proxyOf(ts *testscript.TestScript) *proxy {
	p := stageOf(ts).proxy
	if p == nil {
		ts.Fatalf("there is no proxy")
	}
	return p
}

// cmdProxy starts the proxy.
func cmdProxy(ts *testscript.TestScript, _ bool, args []string) {
	s := stageOf(ts)
	var cuts []int
	for _, a := range args {
		n, err := strconv.Atoi(a)
		ts.Check(err)
		cuts = append(cuts, n)
	}
	p, err := newProxy("127.0.0.1:"+s.port, cuts)
	ts.Check(err)
	ts.Defer(p.close)
	s.proxy = p
	_, port, err := net.SplitHostPort(p.ln.Addr().String())
	ts.Check(err)
	ts.Setenv("PROXY", port)
}

// cmdLink changes what the proxy does.
func cmdLink(ts *testscript.TestScript, _ bool, args []string) {
	p := proxyOf(ts)
	switch mode := args[0]; mode {
	case "cut":
		p.set("up")
	case "up", "down", "mute":
		p.set(mode)
	default:
		ts.Fatalf("link: %s is not known", mode)
	}
}

// cmdTurned waits until somebody was turned away.
func cmdTurned(ts *testscript.TestScript, _ bool, _ []string) {
	p := proxyOf(ts)
	awaitCond(ts, "turned", &p.mu, &p.changed, func() bool { return p.turned > 0 })
}

// cmdRestart replaces the broker by one that remembers nothing.
func cmdRestart(ts *testscript.TestScript, _ bool, args []string) {
	s, p := stageOf(ts), proxyOf(ts)
	s.note(func() { s.subscribed = nil })
	cmdBroker(ts, false, args)
	p.mu.Lock()
	p.target = "127.0.0.1:" + s.port
	p.mu.Unlock()
	p.set("up")
}
