package auth

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// openText is a source whose parser takes what does not contain "bad".
func openText(path string) (*source[string], error) {
	return openSource(path, func(path string, data []byte) (string, error) {
		if strings.Contains(string(data), "bad") {
			return "", errors.New(path + ": bad")
		}
		return string(data), nil
	})
}

func TestPoll(t *testing.T) {
	path := write(t, "one")
	src, err := openText(path)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(text string) {
		rewrite(t, path+".tmp", text)
		if err := os.Rename(path+".tmp", path); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name    string
		do      func()
		changed bool
		fault   bool
		value   string
	}{
		{"nothing", func() {}, false, false, "one"},
		{"same size, same instant", func() { rewrite(t, path, "two") }, true, false, "two"},
		{"nothing again", func() {}, false, false, "two"},
		{"replaced", func() { replace("three") }, true, false, "three"},
		{"touched", func() { rewrite(t, path, "three") }, false, false, "three"},
		{"broken", func() { rewrite(t, path, "bad") }, false, true, "three"},
		{"still broken", func() {}, false, false, "three"},
		{"broken otherwise", func() { rewrite(t, path, "bad too") }, false, true, "three"},
		{"gone", func() { _ = os.Remove(path) }, false, true, "three"},
		{"still gone", func() {}, false, false, "three"},
		{"back", func() { rewrite(t, path, "four") }, true, false, "four"},
	}
	for _, test := range tests {
		test.do()
		changed, err := src.Poll()
		if changed != test.changed || (err != nil) != test.fault {
			t.Errorf("%s: changed %v, %v", test.name, changed, err)
		}
		if v, err := src.value(); v != test.value || err != nil {
			t.Errorf("%s: %q is in force, %v", test.name, v, err)
		}
	}
}

// A file that did not change for a while is not read again.
func TestPollSettled(t *testing.T) {
	path := write(t, "one")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	reads := 0
	src, err := openSource(path, func(_ string, data []byte) (string, error) { reads++; return string(data), nil })
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if changed, err := src.Poll(); changed || err != nil {
			t.Errorf("changed %v, %v", changed, err)
		}
	}
	if reads != 1 {
		t.Errorf("read %d times", reads)
	}
}

func TestWatcher(t *testing.T) {
	one, two := write(t, "a"), write(t, "b")
	synctest.Test(t, func(t *testing.T) {
		first, err1 := openText(one)
		second, err2 := openText(two)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		var changes int
		var faults []string
		w := &Watcher{
			Files:    []Reloader{first, second},
			OnChange: func() { changes++ },
			OnError:  func(path string, err error) { faults = append(faults, filepath.Base(path)+err.Error()) },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { w.Run(ctx); close(done) }()
		round := func(wantChanges, wantFaults int) {
			t.Helper()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if changes != wantChanges || len(faults) != wantFaults {
				t.Errorf("%d changes and faults %q, want %d and %d", changes, faults, wantChanges, wantFaults)
			}
		}
		round(0, 0)
		rewrite(t, one, "c")
		round(1, 0)
		rewrite(t, two, "bad")
		round(1, 1)
		rewrite(t, two, "d")
		round(2, 1)
		rewrite(t, one, "bad")
		if err := w.Reload(); err == nil || changes != 3 {
			t.Errorf("reload: %v, %d changes", err, changes)
		}
		cancel()
		<-done
	})
}

func TestFileTooLarge(t *testing.T) {
	path := write(t, "")
	if err := os.Truncate(path, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}
