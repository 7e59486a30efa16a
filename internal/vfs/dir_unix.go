//go:build unix

package vfs

import (
	"errors"
	"os"
)

// syncDir opens the folder and syncs it: only then is a new name in it durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
