package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// backupPatience is how long a reader of a backup may take for some of it. Whoever stands still keeps space on the disk from being
// used again.
const backupPatience = time.Minute

// backupError is the HTTP trailer that says why a backup ended before its end.
const backupError = "Backup-Error"

// backup answers GET /backup with everything that is on disk, as a stream.
func (a admin) backup(w http.ResponseWriter, r *http.Request) {
	if a.Backup == nil {
		http.Error(w, "this broker keeps its messages in memory: there is nothing on disk to back up", http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Trailer", backupError)
	out := bufio.NewWriterSize(patient{w, http.NewResponseController(w)}, 256<<10)
	err := a.Backup(r.Context(), out)
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		w.Header().Set(backupError, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// patient gives each write its own time.
type patient struct {
	w    http.ResponseWriter
	conn *http.ResponseController
}

func (p patient) Write(b []byte) (int, error) {
	if err := p.conn.SetWriteDeadline(time.Now().Add(backupPatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}

// Backup copies a backup of the running broker to w. It is whole when there was no error; docs/backup.md says what is in it.
func (c *AdminClient) Backup(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/backup", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return err
	}
	if text := resp.Trailer.Get(backupError); text != "" {
		return errors.New(text)
	}
	return nil
}
