package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
	"github.com/magpiemq/magpie/cmd/magpie/internal/mosquitto"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/journal"
)

// importCmd brings over what another broker has kept.
type importCmd struct {
	Mosquitto importMosquittoCmd `cmd:"" help:"Import mosquitto.db, mosquitto.conf, the password file and the access control list of Mosquitto (docs/import-mosquitto.md)."`
}

// importMosquittoCmd makes a data directory out of Mosquitto's files, which stay as they are.
type importMosquittoCmd struct {
	Config    string `help:"mosquitto.conf; the other files are those that it names, unless they are given." placeholder:"FILE"`
	DB        string `name:"db" help:"mosquitto.db of Mosquitto 1.6 or later, saved by a broker that is stopped." placeholder:"FILE"`
	Passwd    string `help:"Password file." placeholder:"FILE"`
	ACL       string `name:"acl" help:"Access control list." placeholder:"FILE"`
	Data      string `help:"Data directory to make; it must not have a journal (magpie-data)." placeholder:"DIR" env:"MAGPIE_DATA"`
	Out       string `help:"Configuration file to write (magpie.yaml in the data directory)." placeholder:"FILE"`
	Owner     string `help:"User of the sessions in a file of Mosquitto 1.6, which does not tell; %c stands for the client id." placeholder:"USER"`
	Anonymous bool   `help:"Give all sessions to clients without a user: for a broker that asks nobody for a password."`
}

// Help is shown by kong below the usage line.
func (*importMosquittoCmd) Help() string {
	return examples(
		"magpie import mosquitto --config /etc/mosquitto/mosquitto.conf --data /var/lib/magpie", "everything that this configuration names",
		"magpie import mosquitto --db mosquitto.db --anonymous", "sessions and messages alone, of a broker without passwords",
	)
}

// Run reads everything before it writes anything.
func (c *importMosquittoCmd) Run() error {
	if c.Data == "" {
		c.Data = config.DefaultData
	}
	ctx, stop := interruptible()
	defer stop()
	m := &migration{cmd: c}
	if err := m.read(); err != nil {
		return err
	}
	if err := m.write(ctx); err != nil {
		return err
	}
	m.report()
	return nil
}

// migration is one import.
type migration struct {
	cmd   *importMosquittoCmd
	conf  *mosquitto.Config // nil without one
	db    *mosquitto.DB     // nil without one
	files []importedFile    // to be written
	notes []mosquitto.Note
	users int
	rules int
	done  mosquitto.Imported
}

// importedFile is a file that is made.
type importedFile struct {
	path string
	data []byte
}

// read reads all of Mosquitto's files.
func (m *migration) read() (err error) {
	c := m.cmd
	if c.Config != "" {
		if m.conf, err = mosquitto.ReadConfig(c.Config); err != nil {
			return usage(err, "")
		}
		m.fromConfig()
	}
	if c.Config == "" && c.DB == "" && c.Passwd == "" && c.ACL == "" {
		return usage(errors.New("there is nothing to import"), "name mosquitto.conf with --config FILE, or single files with --db, --passwd and --acl")
	}
	for _, step := range []func() error{m.readDB, m.readPasswords, m.readACL} {
		if err := step(); err != nil {
			return err
		}
	}
	if m.conf != nil {
		m.notes = append(m.notes, m.conf.Notes...)
		m.makeConfig()
	}
	return m.mustBeNew()
}

// fromConfig takes the names of files from the configuration.
func (m *migration) fromConfig() {
	override := func(flag *string, found string) {
		if *flag == "" {
			*flag = found
		}
	}
	override(&m.cmd.Passwd, m.conf.PasswordFile)
	override(&m.cmd.ACL, m.conf.ACLFile)
	if m.conf.Persistence {
		override(&m.cmd.DB, filepath.Join(m.conf.Location, m.conf.DBName))
	}
}

func (m *migration) readDB() error {
	if m.cmd.DB == "" {
		return nil
	}
	f, size, err := openInput(m.cmd.DB)
	if err != nil {
		return usage(err, "name the file with --db FILE; Mosquitto writes it when it is stopped")
	}
	defer f.Close()
	if m.db, err = mosquitto.ReadDB(f, size); err != nil {
		return fmt.Errorf("%s: %w", m.cmd.DB, err)
	}
	return nil
}

func (m *migration) readPasswords() error {
	if m.cmd.Passwd == "" {
		return nil
	}
	data, err := readSmall(m.cmd.Passwd)
	if err != nil {
		return usage(err, "name the password file with --passwd FILE")
	}
	out, users, notes := mosquitto.Passwords(m.cmd.Passwd, data)
	m.users, m.notes = users, append(m.notes, notes...)
	m.files = append(m.files, importedFile{filepath.Join(m.cmd.Data, "passwd"), out})
	return nil
}

func (m *migration) readACL() error {
	if m.cmd.ACL == "" {
		return nil
	}
	data, err := readSmall(m.cmd.ACL)
	if err != nil {
		return usage(err, "name the access control list with --acl FILE")
	}
	out, rules, notes, err := mosquitto.ACL(m.cmd.ACL, data)
	if err != nil {
		return err
	}
	m.rules, m.notes = rules, append(m.notes, notes...)
	m.files = append(m.files, importedFile{filepath.Join(m.cmd.Data, "acl"), out})
	return nil
}

// readSmall reads a file of at most 64 MiB.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > 64<<20 || info.IsDir() {
		return nil, fmt.Errorf("%s is too large, or no file", path)
	}
	return os.ReadFile(path)
}

// makeConfig writes the configuration, in which paths begin at its own folder where they can.
func (m *migration) makeConfig() {
	out := m.cmd.Out
	if out == "" {
		out = filepath.Join(m.cmd.Data, "magpie.yaml")
		m.cmd.Out = out
	}
	p := mosquitto.Paths{Data: pathFrom(out, m.cmd.Data)}
	if m.cmd.Passwd != "" {
		p.Passwords = pathFrom(out, filepath.Join(m.cmd.Data, "passwd"))
	}
	if m.cmd.ACL != "" {
		p.ACL = pathFrom(out, filepath.Join(m.cmd.Data, "acl"))
	}
	m.files = append(m.files, importedFile{out, m.conf.YAML(p)})
}

// pathFrom is a path as a file in another folder names it.
func pathFrom(file, path string) string {
	from, err1 := filepath.Abs(filepath.Dir(file))
	to, err2 := filepath.Abs(path)
	if err1 != nil || err2 != nil {
		return path
	}
	if rel, err := filepath.Rel(from, to); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return to
}

// mustBeNew makes sure that nothing is overwritten.
func (m *migration) mustBeNew() error {
	for _, f := range m.files {
		if _, err := os.Lstat(f.path); err == nil {
			return hinted(fmt.Errorf("%s is there already, and is left as it is", f.path), "choose another directory with --data DIR")
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// write makes the journal and the files. After an error none of them is left.
func (m *migration) write(ctx context.Context) (err error) {
	if m.db != nil {
		return newJournal(m.cmd.Data, func(folder string) error {
			if err := m.writeJournal(ctx, folder); err != nil {
				return err
			}
			return m.writeFiles()
		})
	}
	if err := makeDataDir(m.cmd.Data); err != nil {
		return err
	}
	return m.writeFiles()
}

func (m *migration) writeFiles() error {
	for i, f := range m.files {
		err := replaceFile(f.path, func(out *os.File) error {
			_, err := out.Write(f.data)
			return err
		})
		if err != nil {
			for _, made := range m.files[:i] {
				_ = os.Remove(made.path)
			}
			return err
		}
	}
	return nil
}

// writeJournal makes a journal of the database.
func (m *migration) writeJournal(ctx context.Context, folder string) error {
	log, err := journal.Open(vfs.OS{}, folder, journal.Options{})
	if err != nil {
		return err
	}
	p := newProgress("import", os.Stderr)
	written, total := int64(0), int64(len(m.db.Messages)+len(m.db.Clients)+len(m.db.Subscriptions))
	m.done, err = m.db.Records(m.importConfig(), func(r *store.Record) (store.Position, error) {
		written++
		p.show(written, total)
		return log.AppendWait(ctx, byte(r.Kind), r.Append(nil))
	})
	p.end()
	return errors.Join(err, log.Close())
}

// importConfig says whose the sessions are.
func (m *migration) importConfig() mosquitto.ImportConfig {
	open := m.conf != nil && m.cmd.Passwd == "" && m.conf.Open()
	return mosquitto.ImportConfig{Now: time.Now(), Owner: m.cmd.Owner, Anonymous: m.cmd.Anonymous || open}
}

// report says what was imported, and what was not.
func (m *migration) report() {
	if m.db != nil {
		d := &m.done
		fmt.Printf("%s (format %d):\n", m.cmd.DB, m.db.Format)
		fmt.Printf("  %s with %s\n", count(d.Sessions, "session"), count(d.Subscriptions, "subscription"))
		fmt.Printf("  %s on the way to them, %d of these in flight\n", count(d.Waiting, "message"), d.InFlight)
		if d.Released > 0 {
			fmt.Printf("  %s of QoS 2 that were not released yet\n", count(d.Released, "message"))
		}
		fmt.Printf("  %s\n", count(d.Retained, "retained message"))
	}
	if m.cmd.Passwd != "" {
		fmt.Printf("%s: %s\n", m.cmd.Passwd, count(m.users, "user"))
	}
	if m.cmd.ACL != "" {
		fmt.Printf("%s: %s\n", m.cmd.ACL, count(m.rules, "rule"))
	}
	m.reportLeft()
	m.reportNext()
}

func (m *migration) reportLeft() {
	var lines []string
	for _, reason := range slices.Sorted(maps.Keys(m.done.Left)) {
		lines = append(lines, fmt.Sprintf("%s: %d %s", m.cmd.DB, m.done.Left[reason], reason))
	}
	for _, n := range m.notes {
		lines = append(lines, n.String())
	}
	if len(lines) > 0 {
		fmt.Println("not imported, or not as it was:")
	}
	for _, l := range lines {
		fmt.Println("  " + strings.TrimSpace(l))
	}
}

// reportNext says how to go on.
func (m *migration) reportNext() {
	switch {
	case m.conf != nil:
		fmt.Printf("written to %s; look it over, then: magpie check config %s; magpie serve --config %s\n", m.cmd.Out, word(m.cmd.Out), word(m.cmd.Out))
	case m.db != nil:
		fmt.Printf("written to %s; start it with: magpie serve --data %s\n", m.cmd.Data, word(m.cmd.Data))
	}
	if m.conf == nil && len(m.files) > 0 {
		fmt.Println("to be named in the configuration, below auth:")
	}
	for _, f := range m.files {
		if m.conf == nil {
			fmt.Printf("  %s_file: %s\n", map[string]string{"passwd": "password", "acl": "acl"}[filepath.Base(f.path)], f.path)
		}
	}
}
