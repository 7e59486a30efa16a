package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/magpiemq/magpie/broker"
)

func TestAdminBackup(t *testing.T) {
	b := newBroker(t, broker.Config{})
	much := strings.Repeat("all that is on disk ", 100_000)
	for _, test := range []struct {
		name   string
		backup func(ctx context.Context, w io.Writer) error
		err    string // what the client hears; empty for a whole backup
	}{
		{"whole", func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, much)
			return err
		}, ""},
		{"nothing on disk", nil, "this broker keeps its messages in memory: there is nothing on disk to back up"},
		{"fails at once", func(context.Context, io.Writer) error { return errors.New("journal: closed") }, "journal: closed"},
		{"fails in the middle", func(_ context.Context, w io.Writer) error {
			_, _ = io.WriteString(w, much)
			return errors.New("a segment\nis damaged")
		}, "a segment; is damaged"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := adminClient(t, AdminConfig{Broker: b, Backup: test.backup})
			var got bytes.Buffer
			err := a.Backup(t.Context(), &got)
			if test.err == "" && (err != nil || got.String() != much) {
				t.Errorf("%v after %d bytes", err, got.Len())
			} else if test.err != "" && (err == nil || err.Error() != test.err) {
				t.Errorf("error %v, want %s", err, test.err)
			}
		})
	}
}

// TestAdminBackupGivenUp: whoever makes the backup is told when its reader goes.
func TestAdminBackupGivenUp(t *testing.T) {
	b := newBroker(t, broker.Config{})
	ended := make(chan error, 1)
	a := adminClient(t, AdminConfig{Broker: b, Backup: func(ctx context.Context, w io.Writer) error {
		var err error
		for err == nil {
			if _, err = w.Write(make([]byte, 64<<10)); err == nil {
				err = ctx.Err()
			}
		}
		ended <- err
		return err
	}})
	full := errors.New("the disk is full")
	if err := a.Backup(t.Context(), writerFunc(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
	<-ended
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
