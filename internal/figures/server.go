package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// kind is a broker to be measured.
type kind struct {
	name    string
	command func(s *settings, dir, address string) (*exec.Cmd, error)
}

// inFlight is how many unacknowledged messages each broker sends to a client.
const inFlight = 1024

var (
	durable = kind{"magpie durable", magpie("durable")}
	memory  = kind{"magpie memory", magpie("memory")}
	peer    = kind{"mosquitto", mosquitto}
)

// kinds are the brokers of which a measurement is wanted.
func (s *settings) kinds(measurement string) (all []kind) {
	for _, k := range []kind{durable, memory, peer} {
		if s.only.MatchString(title(measurement, k)) && (k.name != peer.name || havePeer()) {
			all = append(all, k)
		}
	}
	return all
}

// title names a measurement of a broker.
func title(measurement string, k kind) string { return measurement + ", " + k.name }

// havePeer reports whether mosquitto is installed, and says so once when it is not.
var havePeer = sync.OnceValue(func() bool {
	_, err := mosquittoPath()
	if err != nil {
		progress("mosquitto is left out: %v", err)
	}
	return err == nil
})

// magpieConfig lifts the quotas: what waits is to be measured, not refused.
const magpieConfig = `http:
  address: "off"
log:
  level: warn
limits:
  max_inflight: %d
  queued_messages: unlimited
  queued_bytes: unlimited
  total_queue_bytes: unlimited
`

func magpie(durability string) func(s *settings, dir, address string) (*exec.Cmd, error) {
	return func(s *settings, dir, address string) (*exec.Cmd, error) {
		config := filepath.Join(dir, "magpie.yaml")
		if err := os.WriteFile(config, fmt.Appendf(nil, magpieConfig, inFlight), 0o600); err != nil {
			return nil, err
		}
		cmd := exec.Command(s.binary, "serve", "--config", config, "--data", filepath.Join(dir, "data"), "--mqtt", address,
			"--durability", durability)
		cmd.Stderr = os.Stderr // warnings, of which there should be none
		return cmd, nil
	}
}

// mosquittoConfig is persistence as Debian's package has it: the database is written every half hour and at the end. Nagle's
// algorithm is off, as Go has it off for magpie.
const mosquittoConfig = `listener %s %s
allow_anonymous true
persistence true
persistence_location %s/
max_queued_messages 0
max_inflight_messages %d
set_tcp_nodelay true
log_dest none
`

func mosquitto(s *settings, dir, address string) (*exec.Cmd, error) {
	path, err := mosquittoPath()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf(mosquittoConfig, port, host, dir, inFlight)
	if os.Getuid() == 0 {
		text += "user root\n" // or it could not write to the folder
	}
	config := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return exec.Command(path, "-c", config), nil
}

// mosquittoPath finds the program, which is not in everybody's PATH.
func mosquittoPath() (string, error) {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/mosquitto")
}

// server is a running broker.
type server struct {
	address string
	dir     string
	cmd     *exec.Cmd
}

// patience bounds the start and the end of a broker.
const patience = 30 * time.Second

// start runs a broker in a folder of its own.
func (s *settings) start(k kind) (*server, error) {
	dir, err := os.MkdirTemp(s.dir, "broker")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cmd, err := k.command(s, dir, address)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", k.name, err)
	}
	b := &server{address, dir, cmd}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			_ = nc.Close()
			return b, nil
		}
		if time.Now().After(deadline) {
			b.stop()
			return nil, fmt.Errorf("start %s: %w", k.name, err)
		}
	}
}

// stop ends the broker and removes its folder.
func (b *server) stop() {
	kill := time.AfterFunc(patience, func() { _ = b.cmd.Process.Kill() })
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	_ = b.cmd.Wait()
	kill.Stop()
	_ = os.RemoveAll(b.dir)
}

// freeAddress returns an address on loopback that nobody listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String(), nil
}
