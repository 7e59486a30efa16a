package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker for a release: -ldflags '-X main.version=v1.2.3'.
var version = ""

// versionCmd shows what this binary is.
type versionCmd struct{}

// Help is shown by kong below the usage line.
func (versionCmd) Help() string {
	return examples(
		"magpie version", "name, version, Go version, system",
	)
}

// Run prints one line: name, version, commit, Go version, system.
func (versionCmd) Run() error {
	_, err := fmt.Printf("magpie %s (%s, %s/%s)\n", versionString(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// versionString is the release, or what the Go toolchain recorded, commit included.
func versionString() string {
	info, ok := debug.ReadBuildInfo()
	switch {
	case version != "":
		return version
	case ok && info.Main.Version != "" && info.Main.Version != "(devel)":
		return info.Main.Version
	case ok:
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "devel-" + s.Value[:12]
			}
		}
	}
	return "devel"
}
