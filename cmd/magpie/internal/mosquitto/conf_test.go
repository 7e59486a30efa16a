package mosquitto

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
)

// write writes files into a folder of the test, which becomes the working directory.
func write(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestConfigYAML shows what becomes of a file. Each result is one that serve takes.
func TestConfigYAML(t *testing.T) {
	for _, test := range []struct {
		name, in, want string
		notes          []string // the beginnings
	}{
		{"nothing", "", `
durability: memory # persistence was off
listeners:
  - network: tcp
    address: "127.0.0.1:1883"
`, nil},
		{"one port", "listener 1883\nallow_anonymous true\npersistence true\npersistence_location /var/lib/mosquitto/\nlog_dest file /var/log/m.log\nlog_type all\n", `
durability: durable
log:
  level: debug
listeners:
  - network: tcp
    address: ":1883"
auth:
  allow_anonymous: true
`, []string{"m.conf:5: log_dest file /var/log/m.log: "}},
		{"old style", "port 1884\nbind_address 10.0.0.1\nmax_connections 100\nmax_inflight_messages 0\nmax_queued_bytes 1000000\nsys_interval 0\npersistent_client_expiration 2w\nmax_keepalive 600\n", `
durability: memory # persistence was off
sys_interval: never
listeners:
  - network: tcp
    address: "10.0.0.1:1884"
    max_connections: 100
auth:
  allow_anonymous: false
limits:
  max_inflight: 65535
  queued_bytes: 1000000
  session_expiry: 336h
  max_keep_alive: 600s
`, nil},
		{"tls and websockets", `
listener 8883 ::1
cafile /c/ca.crt
certfile /c/s.crt
keyfile /c/s.key
require_certificate true
use_identity_as_username true
tls_version tlsv1.3
crlfile /c/revoked
listener 8083 127.0.0.1
protocol websockets
websockets_origin https://a.example
listener 0 /run/m.sock
`, `
durability: memory # persistence was off
listeners:
  - network: tls
    address: "[::1]:8883"
    tls:
      cert: "/c/s.crt"
      key: "/c/s.key"
      min_version: "1.3"
      client_ca: "/c/ca.crt"
      client_auth: require
      identity: cn
  - network: ws
    address: "127.0.0.1:8083"
    ws:
      origins:
        - "https://a.example"
  - network: unix
    address: "/run/m.sock"
`, []string{"m.conf:9: crlfile: ", "m.conf:11: WebSocket clients"}},
		{"bridge, plugin and unknown words", `
connection far
address 10.0.0.9:1883
topic # out 1
bridge_insecure true
listener 1883 127.0.0.1
plugin /usr/lib/dynsec.so
plugin_opt_config_file /x.json
max_foo 1
max_connections many
mount_point x/
`, `
durability: memory # persistence was off
listeners:
  - network: tcp
    address: "127.0.0.1:1883"
`, []string{"m.conf:2: connection far: bridges", "m.conf:7: plugin: ", "m.conf:9: max_foo is not", "m.conf:10: max_connections many is not", "m.conf:11: mount_point: "}},
		{"per listener", "per_listener_settings true\nlistener 1883 127.0.0.1\nallow_anonymous true\npassword_file a\nlistener 1884 127.0.0.1\npassword_file b\nallow_anonymous false\n", `
durability: memory # persistence was off
listeners:
  - network: tcp
    address: "127.0.0.1:1883"
    allow_anonymous: true
  - network: tcp
    address: "127.0.0.1:1884"
    allow_anonymous: false
`, []string{"m.conf:6: password_file b: "}},
		{"included", "include_dir conf.d\nmax_queued_messages 0\n", `
durability: memory # persistence was off
listeners:
  - network: tcp
    address: "127.0.0.1:1"
  - network: tcp
    address: "127.0.0.1:2"
limits:
  packet_size: unlimited
  queued_messages: unlimited
`, []string{"m.conf:2: max_queued_messages: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, map[string]string{
				"m.conf": test.in, "conf.d/B.conf": "listener 2 127.0.0.1\nmax_packet_size 0", "conf.d/a.conf": "listener 1 127.0.0.1", "conf.d/readme": "not this",
			})
			c, err := ReadConfig("m.conf")
			if err != nil {
				t.Fatal(err)
			}
			y := string(c.YAML(Paths{}))
			_, got, _ := strings.Cut(y, "\n")
			if got != strings.TrimPrefix(test.want, "\n") {
				t.Errorf("became\n%s\nwant%s", got, test.want)
			}
			for i, n := range c.Notes {
				if i >= len(test.notes) || !strings.HasPrefix(n.String(), test.notes[i]) {
					t.Errorf("note %q, want those that begin with %q", n, test.notes)
				}
			}
			if len(c.Notes) < len(test.notes) {
				t.Errorf("notes %q, want those that begin with %q", c.Notes, test.notes)
			}
			wantValid(t, y)
		})
	}
}

// wantValid wants a configuration that serve takes.
func wantValid(t *testing.T, y string) {
	t.Helper()
	cfg, err := config.Parse("magpie.yaml", []byte(y))
	if err != nil {
		t.Errorf("%v in\n%s", err, y)
		return
	}
	for _, err := range cfg.Validate() {
		t.Errorf("%v in\n%s", err, y)
	}
}

func TestConfigFiles(t *testing.T) {
	write(t, map[string]string{
		"m.conf": "persistence_file x.db\npersistence_location /p\npassword_file pw\nacl_file acl\n", "loop/loop.conf": "include_dir loop\n", "bin": "a\x00b",
	})
	c, err := ReadConfig("m.conf")
	if err != nil || c.DBName != "x.db" || c.Location != "/p" || c.PasswordFile != "pw" || c.ACLFile != "acl" {
		t.Errorf("%v: %+v", err, c)
	}
	y := string(c.YAML(Paths{Data: ".", Passwords: "passwd", ACL: "a \"l\n"}))
	wantValid(t, y)
	if !strings.Contains(y, `acl_file: "a \"l\n"`) {
		t.Errorf("the name of a file is not quoted:\n%s", y)
	}
	for _, bad := range []string{"missing", "bin", "loop/loop.conf"} {
		if _, err := ReadConfig(bad); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// FuzzConfig wants a configuration that our own reader takes, whatever the file says.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("listener 8883\ncertfile a\nkeyfile b\ncafile c\nrequire_certificate true\nmax_keepalive 3\nlog_type all\nconnection x\n"))
	f.Add([]byte("port 1\nbind_address x y\nmax_topic_alias 0\npersistent_client_expiration 0d\nsys_interval 99999999999\nsocket_domain ipv6\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		path := filepath.Join(t.TempDir(), "m.conf")
		if strings.Contains(string(in), "include_dir") || os.WriteFile(path, in, 0o600) != nil {
			return
		}
		c, err := ReadConfig(path)
		if err != nil {
			return
		}
		if _, err := config.Parse("magpie.yaml", c.YAML(Paths{Data: "d"})); err != nil {
			t.Errorf("%v in\n%s", err, c.YAML(Paths{Data: "d"}))
		}
	})
}
