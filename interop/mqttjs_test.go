package interop

import (
	"os"
	"os/exec"
	"testing"
)

// mqttJS is MQTT.js, driven by js/driver.js: one process for all its clients.
type mqttJS struct{}

func (mqttJS) missing() error {
	if _, err := exec.LookPath("node"); err != nil {
		return err
	}
	_, err := os.Stat("js/node_modules/mqtt/package.json")
	return err
}

func (mqttJS) connect(t *testing.T, s settings, filters ...string) (*client, error) {
	id, c, err := dialJS(t, s)
	if err != nil || len(filters) == 0 {
		return c, err
	}
	_, err = js().do(jsRequest{Op: "subscribe", Client: id, Filters: filters, QoS: s.qos})
	return c, err
}

func (mqttJS) publish(t *testing.T, s settings, messages ...message) error {
	id, c, err := dialJS(t, s)
	if err != nil {
		return err
	}
	defer c.leave()
	for _, m := range messages {
		if _, err := js().do(jsRequest{Op: "publish", Client: id, Message: jsFrom(&m)}); err != nil {
			return err
		}
	}
	return nil
}

func dialJS(t *testing.T, s settings) (int, *client, error) {
	c := newClient()
	id := js().add(c)
	do := func(op string) func() {
		return func() {
			if _, err := js().do(jsRequest{Op: op, Client: id}); err != nil {
				t.Errorf("%s: %v", op, err)
			}
		}
	}
	c.leave, c.cut = do("leave"), do("cut")
	answer, err := js().do(jsRequest{
		Op: "connect", Client: id, Will: jsFrom(s.will), Withhold: s.withhold,
		URL: s.at.url("mqtt", "mqtts", "mqtt+unix"), Options: jsOptions(t, s),
	})
	if err != nil {
		return 0, nil, err
	}
	t.Cleanup(c.leave)
	c.present = answer.Present
	return id, c, nil
}

func jsOptions(t *testing.T, s settings) map[string]any {
	o := map[string]any{
		"protocolVersion": s.version,
		"protocolId":      "MQTT",
		"clientId":        s.clientID,
		"clean":           !s.keep,
		"reconnectPeriod": 0,
		"connectTimeout":  patience.Milliseconds(),
	}
	if s.version == v31 {
		o["protocolId"] = "MQIsdp"
	}
	if s.version == v5 && s.keep {
		o["properties"] = map[string]any{"sessionExpiryInterval": 3600}
	}
	if s.returns {
		o["reconnectPeriod"] = 10
	}
	if s.user != "" {
		o["username"], o["password"] = s.user, s.password
	}
	if s.at.secure() {
		o["ca"] = read(t, s.at.certs.authority)
	}
	if s.certificate {
		o["cert"], o["key"] = read(t, s.at.certs.clientCert), read(t, s.at.certs.clientKey)
	}
	return o
}

func read(t *testing.T, file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
