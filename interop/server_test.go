package interop

import (
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// user and password are who may enter a broker that keeps a password file.
const user, password = "u001", "p001"

// An endpoint is where one listener can be reached.
type endpoint struct {
	network string // tcp, tls, ws, wss or unix
	address string // host:port, or a path
	certs   *certificates
}

func (e endpoint) secure() bool { return e.network == "tls" || e.network == "wss" }

func (e endpoint) split() (host, port string) {
	host, port, _ = net.SplitHostPort(e.address)
	return host, port
}

// url writes the endpoint with the peer's names for three of the schemes; those of WebSocket are the same for all.
func (e endpoint) url(tcp, tls, unix string) string {
	switch e.network {
	case "unix":
		return unix + "://" + e.address
	case "ws", "wss":
		return e.network + "://" + e.address + "/mqtt"
	case "tls":
		return tls + "://" + e.address
	}
	return tcp + "://" + e.address
}

// A broker is a running server with a listener of each kind.
type broker struct {
	endpoints map[string]endpoint // by listener: the networks, and mtls, which demands a client certificate
}

func (b *broker) at(listener string) endpoint { return b.endpoints[listener] }

// A listener is one to be configured.
type listener struct{ name, network, address string }

// options are what tests vary.
type options struct {
	passwords bool // who comes without user and password is refused
}

// start runs a broker for the time of the test. It demands that the broker ends cleanly, and shows its log when the test fails.
func start(t *testing.T, o options) *broker {
	t.Helper()
	dir, err := os.MkdirTemp("", "magpie") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	certs := makeCertificates(t, dir)
	listeners := []listener{
		{"tcp", "tcp", "127.0.0.1:0"},
		{"tls", "tls", "127.0.0.1:0"},
		{"mtls", "tls", "127.0.0.1:0"},
		{"ws", "ws", "127.0.0.1:0"},
		{"wss", "wss", "127.0.0.1:0"},
		{"unix", "unix", filepath.Join(dir, "mqtt.sock")},
	}
	passwords := ""
	if o.passwords {
		passwords = filepath.Join(dir, "passwords")
		write(t, passwords, passwordLine(t, user, password))
	}
	launch := launchMagpie
	if os.Getenv("MAGPIE_INTEROP_BROKER") == "mosquitto" {
		launch = launchMosquitto
	}
	addresses := launch(t, dir, listeners, certs, passwords)
	b := &broker{endpoints: make(map[string]endpoint)}
	for _, l := range listeners {
		b.endpoints[l.name] = endpoint{network: l.network, address: addresses[l.name], certs: certs}
	}
	return b
}

// build compiles the binary under test, once.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "magpie")
	if err != nil {
		return "", err
	}
	atEnd(func() { os.RemoveAll(dir) })
	binary := filepath.Join(dir, "magpie")
	// In the broker's own module, so that it is what a user builds.
	out, err := exec.Command("go", "build", "-C", "..", "-o", binary, "./cmd/magpie").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build magpie: %w\n%s", err, out)
	}
	return binary, nil
})

func launchMagpie(t *testing.T, dir string, listeners []listener, certs *certificates, passwords string) map[string]string {
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "magpie.yaml")
	write(t, config, magpieConfig(listeners, certs, passwords))
	cmd := command(t, binary, "serve", "--config", config, "--data", filepath.Join(dir, "data"), "--log-format", "json")
	addresses := make(map[string]string)
	run(t, cmd, func(line string) bool {
		if name, address, ok := announced(line); ok {
			addresses[name] = address
		}
		return len(addresses) == len(listeners)
	})
	return addresses
}

// announced reads the log line with which magpie tells where a listener is.
func announced(line string) (name, address string, ok bool) {
	var entry struct{ Msg, Listener, Address string }
	if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "listening" {
		return "", "", false
	}
	return entry.Listener, entry.Address, true
}

func magpieConfig(listeners []listener, certs *certificates, passwords string) string {
	var b strings.Builder
	b.WriteString("listeners:\n")
	for _, l := range listeners {
		fmt.Fprintf(&b, "  - name: %s\n    network: %s\n    address: %q\n", l.name, l.network, l.address)
		if l.network == "tls" || l.network == "wss" {
			fmt.Fprintf(&b, "    tls:\n      cert: %q\n      key: %q\n", certs.serverCert, certs.serverKey)
		}
		if l.name == "mtls" {
			fmt.Fprintf(&b, "      client_ca: %q\n      client_auth: require\n", certs.authority)
		}
		if l.network == "ws" || l.network == "wss" {
			b.WriteString("    ws:\n      path: /mqtt\n")
		}
	}
	fmt.Fprintf(&b, "auth:\n  allow_anonymous: %t\n", passwords == "")
	if passwords != "" {
		fmt.Fprintf(&b, "  password_file: %q\n", passwords)
		b.WriteString("  throttle: {base: 1ms, max: 5ms}\n") // failed logins are what these tests make
	}
	b.WriteString("http:\n  address: \"off\"\n")
	return b.String()
}

// passwordLine is a line of a Mosquitto password file: PBKDF2 with SHA-512.
func passwordLine(t *testing.T, user, password string) string {
	const rounds = 101
	salt := []byte("twelve bytes")
	hash, err := pbkdf2.Key(sha512.New, password, salt, rounds, sha512.Size)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s:$7$%d$%s$%s\n", user, rounds, base64.StdEncoding.EncodeToString(salt), base64.StdEncoding.EncodeToString(hash))
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
