//go:build unix

package auth

import (
	"os"
	"syscall"
)

// keepOwner gives f the owner of the file that it replaces: when root edits the broker's file, the broker must still
// be able to read it. Somebody who may not change owners keeps his own, which is the right one then.
func keepOwner(f *os.File, old os.FileInfo) {
	if st, ok := old.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(st.Uid), int(st.Gid))
	}
}
