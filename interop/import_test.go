package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestImport lets a real Mosquitto save what it has, imports that, and lets its clients go on at magpie.
func TestImport(t *testing.T) {
	need(t, mosquitto{})
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "magpie") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf, socket, data := filepath.Join(dir, "mosquitto.conf"), filepath.Join(dir, "m.sock"), filepath.Join(dir, "data")
	write(t, filepath.Join(dir, "passwords"), passwordLine(t, user, password))
	write(t, filepath.Join(dir, "acl"), "user "+user+"\ntopic readwrite #\n")
	write(t, conf, strings.Join([]string{
		"user root", "persistence true", "persistence_location " + dir + "/", "listener 0 " + socket, "allow_anonymous false",
		"password_file " + filepath.Join(dir, "passwords"), "acl_file " + filepath.Join(dir, "acl"), "log_type all",
	}, "\n")+"\n")
	s := settings{version: v5, at: endpoint{network: "unix", address: socket}, user: user, password: password, keep: true}

	rich := message{name: "lamps/1", payload: "two", qos: 1, props: properties{contentType: "text/plain", user: []property{{"k", "v"}}}}
	sent := []message{{name: "lamps/1", payload: "one", qos: 1}, rich, {name: "lamps/1", payload: "three", qos: 2}, {name: "lamps/2", payload: "four", qos: 2}}
	kept := message{name: "site/name", payload: "Yancheng", qos: 1, retain: true}
	t.Run("mosquitto", func(t *testing.T) {
		run(t, command(t, "mosquitto", "-c", conf), func(line string) bool { return strings.HasSuffix(line, " running") })
		connect(t, mosquitto{}, s.by("lamp").subscribing(2), "lamps/+").leave()
		connect(t, mosquitto{}, s.by("old").with(v311).subscribing(1), "lamps/#").leave()
		publish(t, mosquitto{}, s.by("switch"), append(sent, kept)...)
		publish(t, mosquitto{}, s.by("switch"), message{name: "site/name", payload: "Yancheng", qos: 1, retain: true})
	})
	out, err := exec.CommandContext(t.Context(), binary, "import", "mosquitto", "--config", conf, "--data", data).CombinedOutput()
	if err != nil {
		t.Fatalf("import: %v\n%s", err, out)
	}
	t.Logf("import said:\n%s", out)
	t.Run("magpie", func(t *testing.T) {
		cmd := command(t, binary, "serve", "--config", filepath.Join(data, "magpie.yaml"), "--http", "off", "--log-format", "json")
		run(t, cmd, func(line string) bool { _, _, ok := announced(line); return ok })
		lamp := connect(t, mosquitto{}, s.by("lamp").subscribing(2), "nothing")
		expectQueue(t, lamp, sent, 2)
		old := connect(t, mosquitto{}, s.by("old").with(v311).subscribing(1), "nothing")
		plain := slices.Clone(sent)
		plain[1].props = properties{}
		expectQueue(t, old, plain, 1)
		connect(t, mosquitto{}, s.by("new").subscribing(1), "site/#").expect(t, kept)
	})
}

// with are the settings of another version.
func (s settings) with(v version) settings {
	s.version = v
	return s
}

// expectQueue wants what was sent while the client was away, each QoS in its order.
func expectQueue(t *testing.T, c *client, sent []message, qos byte) {
	t.Helper()
	got := c.take(t, len(sent))
	for q := range byte(3) {
		var have, want []string
		for _, m := range got {
			if m.qos == q {
				have = append(have, m.String())
			}
		}
		for _, m := range sent {
			if m = m.as(qos); m.qos == q {
				want = append(want, m.String())
			}
		}
		if !slices.Equal(have, want) {
			t.Errorf("QoS %d: got %q, want %q", q, have, want)
		}
	}
}
