// Package examples holds programs to begin with. This test runs those that are clients.
package examples

import (
	"bufio"
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// start runs a broker and returns it with its URL.
func start(t *testing.T) (*broker.Broker, string) {
	t.Helper()
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		_ = b.Shutdown(context.Background())
		<-served
	})
	return b, "mqtt://" + ln.Addr().String()
}

// build compiles an example.
func build(t *testing.T, name string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-o", binary, "./"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// command prepares a program that ends with the test, or after a minute.
func command(t *testing.T, binary string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, binary, args...)
}

func TestRequest(t *testing.T) {
	_, url := start(t)
	out, err := command(t, build(t, "request"), "-url", url).CombinedOutput()
	if err != nil || string(out) != "HELLO\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestLamp(t *testing.T) {
	b, url := start(t)
	online := make(chan string, 10)
	sub, err := b.Subscribe("home/lamp/online", mqtt.AtLeastOnce, func(m *mqtt.Message, _ bool) { online <- string(m.Payload) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	binary := build(t, "lamp")
	lamp := command(t, binary, "-url", url)
	out, err := lamp.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := lamp.Start(); err != nil {
		t.Fatal(err)
	}
	if got := <-online; got != "yes" { // before it has been there once, nothing keeps a command for it
		t.Fatalf("online: %s", got)
	}
	for _, to := range []string{"on", "off"} {
		said, err := command(t, binary, "-url", url, "-switch", to).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(said), "lamp: "+to+"\n") {
			t.Errorf("%v: %s", err, said)
		}
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"the lamp is on", "the lamp is off"} {
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("lamp says %q, want %q", lines.Text(), want)
		}
	}
	_ = lamp.Process.Kill()
	_ = lamp.Wait()
}

func TestSensor(t *testing.T) {
	b, url := start(t)
	got := make(chan string, 1000)
	sub, err := b.Subscribe("sensors/+/telemetry", mqtt.AtLeastOnce, func(m *mqtt.Message, _ bool) { got <- string(m.Payload) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	sensor := command(t, build(t, "sensor"), "-url", url, "-queue", filepath.Join(t.TempDir(), "q"), "-every", "1ms")
	if err := sensor.Start(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if m := <-got; !strings.HasPrefix(m, `{"ts":`) {
			t.Errorf("measured %q", m)
		}
	}
	_ = sensor.Process.Kill()
	_ = sensor.Wait()
}
