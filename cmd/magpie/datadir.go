package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// foreign are files and folders by which the data of other brokers is known.
var foreign = []struct{ name, broker, hint string }{
	{"mosquitto.db", "Mosquitto", "bring it over with: magpie import mosquitto --db %s/mosquitto.db --data DIR; or choose another directory with --data DIR"},
	{"mnesia", "EMQX", ""},
	{"jetstream", "NATS", ""},
	{"sessions.db", "FlashMQ", ""},
	{"msgstore", "VerneMQ", ""},
}

// checkDataDir refuses a data directory in which another broker has its files. One with a journal is ours, whatever else is there.
func checkDataDir(dir string) error {
	if info, err := os.Stat(filepath.Join(dir, journalFolder)); err == nil && info.IsDir() {
		return nil
	} else if err == nil {
		return hinted(fmt.Errorf("data directory: %s is not a folder", filepath.Join(dir, journalFolder)), "move it away, or choose another directory with --data DIR")
	}
	for _, f := range foreign {
		if _, err := os.Lstat(filepath.Join(dir, f.name)); err != nil {
			continue
		}
		hint := "choose another directory with --data DIR"
		if f.hint != "" {
			hint = fmt.Sprintf(f.hint, dir)
		}
		return hinted(fmt.Errorf("data directory: %s is one of %s, with %s in it; nothing was changed", dir, f.broker, f.name), hint)
	}
	return nil
}
