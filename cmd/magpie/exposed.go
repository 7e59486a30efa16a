package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
)

// secrets are the files of a configuration that nobody but the broker should read.
func secrets(cfg *config.Config) (files []string) {
	files = append(files, cfg.Auth.PasswordFile)
	if j := cfg.Auth.JWT; j != nil && j.Format == "secret" {
		files = append(files, j.KeyFile)
	}
	if w := cfg.Auth.HTTP; w != nil {
		files = append(files, w.BearerFile)
	}
	all := []*config.TLS{cfg.HTTP.TLS}
	for i := range cfg.Listeners {
		all = append(all, cfg.Listeners[i].TLS)
	}
	for _, t := range all {
		if t == nil {
			continue
		}
		files = append(files, t.Key)
		for _, c := range t.Certificates {
			files = append(files, c.Key)
		}
	}
	return files
}

// exposed returns a sentence for each secret file that every user of the machine can read.
func exposed(cfg *config.Config) (warnings []string) {
	if runtime.GOOS == "windows" {
		return nil // has no such bits
	}
	for _, path := range secrets(cfg) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
			warnings = append(warnings, fmt.Sprintf("every user of this machine can read %s: chmod 600 it", path))
		}
	}
	return warnings
}

// makeDataDir makes the data directory. One that others can write to is refused: they could put a socket of theirs in place of
// the console's.
func makeDataDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return hinted(fmt.Errorf("data directory: %w", err), "choose another with --data DIR")
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 {
		return hinted(fmt.Errorf("data directory: others can write to %s", path), "chmod 700 it, or choose another with --data DIR")
	}
	return nil
}
