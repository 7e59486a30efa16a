package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/term"

	"github.com/magpiemq/magpie/api"
	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store/journal"
)

// backupCmd writes everything that a broker keeps on disk into one file.
type backupCmd struct {
	File  string `arg:"" help:"File to write, readable by you alone; one of that name is replaced once the backup is whole. - is standard output."`
	Data  string `help:"Data directory of the broker (magpie-data)." placeholder:"DIR" env:"MAGPIE_DATA"`
	Admin string `help:"Socket of the running broker (admin.sock in the data directory)." placeholder:"SOCKET"`
}

// Help is shown by kong below the usage line.
func (*backupCmd) Help() string {
	return examples(
		"magpie backup site.backup", "of the broker whose data directory is ./magpie-data, running or not",
		"magpie backup --data /var/lib/magpie - | ssh vault 'cat > site.backup'", "to another machine",
	)
}

// Run backs up through the broker when it is running, and from its folder otherwise.
func (c *backupCmd) Run() error {
	if c.Data == "" {
		c.Data = config.DefaultData
	}
	ctx, stop := interruptible()
	defer stop()
	if c.File == "-" {
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return usagef("a backup is no text: redirect standard output")
		}
		return c.write(ctx, os.Stdout, os.Stderr)
	}
	return replaceFile(c.File, func(f *os.File) error { return c.write(ctx, f, os.Stdout) })
}

// replaceFile makes a file that appears under its name when write is done, durable; after an error nothing has changed.
func replaceFile(name string, write func(*os.File) error) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*.part") // with permission 0600
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return vfs.OS{}.SyncDir(dir)
}

// write writes the backup, makes sure that it is whole, and tells what is in it.
func (c *backupCmd) write(ctx context.Context, out, tell io.Writer) error {
	in, copied := io.Pipe()
	p := newProgress("backup", os.Stderr)
	var info journal.BackupInfo
	checked := make(chan error, 1)
	go func() {
		var err error
		info, err = journal.CheckBackup(in, p.show)
		in.CloseWithError(err) // whatever comes behind the end is an error too
		checked <- err
	}()
	err := c.source(ctx, io.MultiWriter(out, copied))
	copied.Close()
	wrong := <-checked
	p.end()
	if err == nil {
		err = wrong
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(tell, "backed up %s: %s\n", c.Data, backupWords(info))
	return nil
}

// backupWords says what is in a backup.
func backupWords(i journal.BackupInfo) string {
	return fmt.Sprintf("%s, %s in %s, %s among them", sizeWord(i.Bytes), count(int(i.Records), "record"), count(i.Segments, "segment"), count(int(i.Messages), "message"))
}

// source writes the backup.
func (c *backupCmd) source(ctx context.Context, w io.Writer) error {
	socket := c.Admin
	if socket == "" {
		socket = filepath.Join(c.Data, adminSocket)
	}
	client := api.NewAdminClient(socket)
	defer client.Close()
	_, err := client.Stats(ctx)
	switch {
	case err == nil:
		return client.Backup(ctx, w)
	case c.Admin != "":
		return hinted(fmt.Errorf("no broker answers at %s: %w", c.Admin, err), "leave --admin out to back up the folder of a broker that is stopped")
	case !nobodyThere(err):
		return fmt.Errorf("ask the broker at %s: %w", socket, err)
	}
	folder, err := journalIn(c.Data)
	if err != nil {
		return err
	}
	_, err = journal.Backup(ctx, vfs.OS{}, folder, w, "magpie "+versionString())
	return err
}

// nobodyThere says whether an error of the admin socket means that no broker is running.
func nobodyThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR)
}
