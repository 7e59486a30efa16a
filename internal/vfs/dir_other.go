//go:build !unix

package vfs

// syncDir does nothing: these systems have no such call, and their file systems order names by themselves.
func syncDir(string) error { return nil }
