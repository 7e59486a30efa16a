package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
)

// A sync is measured as the journal does it: pages behind one another in a file that has its space already.
const (
	syncPage  = 4 << 10
	syncTimes = 200
)

// measureSync adds the times of some writes, each with a sync.
func measureSync(dir string, times *histogram) error {
	name := filepath.Join(dir, "sync")
	f, err := vfs.OS{}.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return fmt.Errorf("measure syncs: %w", err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(name)
	}()
	if err := f.Preallocate(syncPage * syncTimes); err != nil {
		return fmt.Errorf("measure syncs: %w", err)
	}
	page := make([]byte, syncPage)
	for i := range syncTimes {
		start := time.Now()
		if _, err := f.WriteAt(page, int64(i)*syncPage); err != nil {
			return fmt.Errorf("measure syncs: %w", err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("measure syncs: %w", err)
		}
		times.add(time.Since(start))
	}
	return nil
}
