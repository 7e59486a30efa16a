package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/magpiemq/magpie/api"
	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store/journal"
)

// restoreCmd makes a data directory of a backup.
type restoreCmd struct {
	File string `arg:"" help:"The backup; - is standard input."`
	Data string `help:"Data directory, which must not have a journal (magpie-data)." placeholder:"DIR" env:"MAGPIE_DATA"`
}

// Help is shown by kong below the usage line.
func (*restoreCmd) Help() string {
	return examples(
		"magpie restore site.backup --data /var/lib/magpie", "into a directory that has no journal yet",
		"ssh vault cat site.backup | magpie restore -", "from another machine into ./magpie-data",
	)
}

// Run verifies the backup while it unpacks it, and puts it in its place when all is well. After an error nothing is left of it.
func (c *restoreCmd) Run() error {
	if c.Data == "" {
		c.Data = config.DefaultData
	}
	ctx, stop := interruptible()
	defer stop()
	in, size, err := openInput(c.File)
	if err != nil {
		return usage(err, "")
	}
	defer in.Close()
	p := newProgress("restore", os.Stderr)
	var info journal.BackupInfo
	err = newJournal(c.Data, func(folder string) (err error) {
		defer p.end()
		info, err = journal.Unpack(vfs.OS{}, folder, until{ctx, in}, func(done, total int64) { p.show(done, max(total, size)) })
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("restored to %s: %s\n", c.Data, backupWords(info))
	fmt.Printf("made by %s at %s; start it with: magpie serve --data %s\n",
		info.Program, info.Time.Local().Format("2006-01-02 15:04:05 -0700"), word(c.Data))
	return nil
}

// openInput opens a file for reading, or standard input, and tells its size, 0 when that is not known.
func openInput(name string) (f *os.File, size int64, err error) {
	if name == "-" {
		return os.Stdin, 0, nil
	}
	if f, err = os.Open(name); err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// until reads until ctx is done.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u until) Read(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, errors.New("interrupted")
	}
	return u.r.Read(b)
}

// newJournal makes the journal of a data directory that has none: fill makes it in a temporary folder beside its place, and
// when that went well it is moved there, durable. Otherwise nothing is left.
func newJournal(data string, fill func(folder string) error) (err error) {
	if err := mustBeFree(data); err != nil {
		return err
	}
	_, statErr := os.Stat(data)
	if err := makeDataDir(data); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(data, ".journal-*")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		_ = os.RemoveAll(temporary)
		if statErr != nil {
			_ = os.Remove(data) // was not there before
		}
	}()
	if err := fill(temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(data, journalFolder)); err != nil {
		return err
	}
	for _, dir := range []string{data, filepath.Dir(filepath.Clean(data))} {
		if err := (vfs.OS{}).SyncDir(dir); err != nil {
			return fmt.Errorf("sync folder: %w", err)
		}
	}
	return nil
}

// mustBeFree makes sure that a data directory has no journal and no broker, and takes away what is left of an attempt to start one.
func mustBeFree(data string) error {
	client := api.NewAdminClient(filepath.Join(data, adminSocket))
	defer client.Close()
	if _, err := client.Stats(context.Background()); err == nil {
		return hinted(fmt.Errorf("a broker is running with the data directory %s", data), "stop it, or choose another directory with --data DIR")
	}
	folder := filepath.Join(data, journalFolder)
	all, err := os.ReadDir(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(all) > 1, len(all) == 1 && all[0].Name() != "LOCK":
		return hinted(fmt.Errorf("%s has a journal already, which is left as it is", data),
			"choose another directory with --data DIR, or move "+word(folder)+" away")
	}
	if len(all) == 1 {
		lock, err := vfs.OS{}.Lock(filepath.Join(folder, "LOCK"), "")
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	return os.RemoveAll(folder)
}
