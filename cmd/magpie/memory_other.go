//go:build !darwin

package main

// systemMemory returns the memory of the machine in bytes, zero when that cannot be known.
func systemMemory() int64 { return 0 }
