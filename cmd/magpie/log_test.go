package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"unicode"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
)

// hostile is what a client may call itself.
const hostile = "a\x1b[2J\n\u009b31m\u202e\U000e0001\x7f\xff\"\\"

// No log line does anything to a terminal but be a line.
func TestLogEscapes(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		_, log := newLogging(config.Log{Format: format}, &out, slog.LevelInfo)
		log.Info("client connected", "client", hostile)
		line, ok := strings.CutSuffix(out.String(), "\n")
		if !ok || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) && r != '\ufffd' }) {
			t.Errorf("%s: %q", format, out.String())
		}
	}
}

// JSON is still JSON, and says the same.
func TestLogJSON(t *testing.T) {
	var out bytes.Buffer
	_, log := newLogging(config.Log{Format: "json"}, &out, slog.LevelInfo)
	log.Info("x", "client", hostile)
	var entry struct{ Client string }
	if err := json.Unmarshal(out.Bytes(), &entry); err != nil {
		t.Fatal(err)
	}
	if want := strings.ToValidUTF8(hostile, "\ufffd"); entry.Client != want {
		t.Errorf("got %q, want %q", entry.Client, want)
	}
}

func TestLogLevel(t *testing.T) {
	var out bytes.Buffer
	logs, log := newLogging(config.Log{}, &out, slog.LevelWarn)
	log.Info("one")
	logs.setLevel("debug", slog.LevelWarn)
	log.Debug("two")
	logs.setLevel("", slog.LevelWarn)
	log.Info("three")
	var elsewhere bytes.Buffer
	if before := logs.redirect(&elsewhere); before != &out {
		t.Error("redirect did not return where lines went")
	}
	log.Warn("four")
	if s := out.String(); strings.Contains(s, "one") || !strings.Contains(s, "two") || strings.Contains(s, "three") || strings.Contains(s, "four") {
		t.Errorf("got %s", s)
	}
	if !strings.Contains(elsewhere.String(), "four") {
		t.Errorf("elsewhere got %s", elsewhere.String())
	}
}
