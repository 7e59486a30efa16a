package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// ErrNoUser is returned, wrapped, by [DeleteUser] for a user whom the file does not have.
var ErrNoUser = errors.New("no such user")

// PasswordOptions says what [SetPassword] writes.
type PasswordOptions struct {
	// SCRAM writes the keys of SCRAM-SHA-256 beside the hash.
	SCRAM bool
	// Iterations is the cost of the SCRAM keys. Zero means 15,000; the least is 4096.
	Iterations int
}

// SetPassword gives a user a password in a password file, which is made if need be. Other lines stay as they are, even
// broken ones. The file is replaced as a whole, synced, with mode 0600 and its former owner; a reader sees the old or
// the new content. While another SetPassword or DeleteUser is under way on the file it fails.
func SetPassword(path, user, password string, opts PasswordOptions) error {
	line, err := passwordLine(user, password, opts)
	if err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	err = editFile(path, func(old string) (string, error) { return replaceUser(old, user, line), nil })
	if err != nil {
		return fmt.Errorf("set password of %q: %w", user, err)
	}
	return nil
}

// DeleteUser removes a user from a password file, in the way of [SetPassword]. Deleting the last user leaves a file
// that denies everybody.
func DeleteUser(path, user string) error {
	err := editFile(path, func(old string) (string, error) {
		text := replaceUser(old, user, "")
		if text == old {
			return "", ErrNoUser
		}
		return text, nil
	})
	if err != nil {
		return fmt.Errorf("delete user %q: %w", user, err)
	}
	return nil
}

func passwordLine(user, password string, opts PasswordOptions) (string, error) {
	if err := checkText("user", user); err != nil {
		return "", err
	}
	if strings.Contains(user, ":") || strings.HasPrefix(user, "#") {
		return "", fmt.Errorf("user %q: a colon, or # at the start, does not fit into the file", user)
	}
	h, err := Hash(password)
	if err != nil || !opts.SCRAM {
		return user + ":" + h, err
	}
	k, err := NewScramKeys(password, opts.Iterations)
	return user + ":" + h + ":" + k.String(), err
}

// replaceUser puts line in place of the user's first line and drops the user's further ones. An empty line only drops.
func replaceUser(text, user, line string) string {
	var out strings.Builder
	for old := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimPrefix(old, "\ufeff"), user+":") {
			out.WriteString(old)
		} else if line != "" {
			out.WriteString(line + "\n")
			line = ""
		}
	}
	if line == "" {
		return out.String()
	}
	if s := out.String(); s != "" && !strings.HasSuffix(s, "\n") {
		out.WriteByte('\n')
	}
	return out.String() + line + "\n"
}

// editFile replaces a file by what edit makes of its content. The new file stands beside the old one under a fixed
// name until it is renamed, which also keeps two editors from losing each other's work.
func editFile(path string, edit func(string) (string, error)) error {
	path, err := resolve(path)
	if err != nil {
		return err
	}
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: another edit is under way; if none is, remove it", temp)
	} else if err != nil {
		return err
	}
	if err := fillFrom(f, path, edit); err != nil {
		return errors.Join(err, f.Close(), os.Remove(temp))
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(path))
}

// resolve follows symbolic links, so that the file is replaced and not the link.
func resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	return real, err
}

func fillFrom(f *os.File, path string, edit func(string) (string, error)) error {
	old, err := readAll(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info, err := os.Stat(path); err == nil {
		keepOwner(f, info)
	}
	text, err := edit(string(old))
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return err
}

// syncDir makes a rename last through a power failure.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
