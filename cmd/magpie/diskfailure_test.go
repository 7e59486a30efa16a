package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
)

// A23: the disk fails under a running server. Whoever publishes is not told that it worked, the process ends by itself with an exit
// code that is not 0, and the message says what happened and what to do.
func TestA23DiskFails(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newServer(t, "durability: durable\nauth: {allow_anonymous: true}")
	disk := vfs.NewFaulty(vfs.OS{})
	s.disk = disk
	var out bytes.Buffer
	if err := s.start(announcer{out: &out}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	url := regexp.MustCompile(`listening on (mqtt://\S+)`).FindStringSubmatch(out.String())
	if url == nil {
		t.Fatalf("it said\n%s", out.String())
	}
	c, err := client.DialConn(ctx, url[1], client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	disk.Set(vfs.Fault{Op: vfs.OpSync, Nth: 1, Forever: true, Err: syscall.EIO})
	if _, err := c.Publish(ctx, &mqtt.Message{Topic: "t", Payload: []byte("x"), QoS: mqtt.AtLeastOnce, Retain: true}); err == nil {
		t.Error("the message was acknowledged")
	}
	select {
	case <-s.stopping:
	case <-time.After(patience):
		t.Fatal("the server goes on")
	}
	err = s.drain(make(chan os.Signal))
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("it ends with %v", err)
	}
	code, text := failed(t, err)
	if code != 1 || !strings.Contains(text, "magpie: store: sync journal: ") || !strings.Contains(text, "hint: what was acknowledged is on the disk") {
		t.Errorf("exit code %d and\n%s", code, text)
	}
}

// failed returns the exit code for an error, and what is printed about it.
func failed(t *testing.T, err error) (code int, text string) {
	t.Helper()
	r, w, pipeErr := os.Pipe()
	if pipeErr != nil {
		t.Fatal(pipeErr)
	}
	old := os.Stderr
	os.Stderr = w
	code = fail(err)
	os.Stderr = old
	_ = w.Close()
	b, readErr := io.ReadAll(r)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return code, string(b)
}
