package main

import "golang.org/x/sys/unix"

// systemMemory returns the memory of the machine in bytes, zero when that cannot be known.
func systemMemory() int64 {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return int64(n)
}
