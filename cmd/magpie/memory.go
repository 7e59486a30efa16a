package main

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
)

// collectAt is the part of the memory limit, in percent, at which the garbage collector begins to work harder. It is below the
// levels at which clients notice, so that only what is really in use takes the process there.
const collectAt = 75

// leastMemory is the smallest limit that leaves something to clients, in bytes.
const leastMemory = 32 << 20

// memoryLimit returns memory.limit in bytes, zero for none.
func (s *server) memoryLimit() (int64, error) {
	limit, err := s.cfg.Memory.Limit.Of(availableMemory(os.DirFS("/")))
	if limit > 0 && s.cfg.Memory.Limit == (config.Budget{}) {
		limit = max(limit, leastMemory) // nobody has asked for less
	}
	switch {
	case err != nil:
		return 0, usage(s.cfg.Memory.Pos.Errorf("memory: %w", err), "")
	case limit > 0 && limit < leastMemory:
		return 0, usage(s.cfg.Memory.Pos.Errorf("memory: a limit of %d bytes is too little: at least 32MiB", limit), "")
	}
	return limit, nil
}

// holdMemory tells the garbage collector about the limit, unless the environment does.
func holdMemory(limit int64) {
	if limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit / 100 * collectAt)
	}
}

// availableMemory returns how many bytes the system lets this process have: what its control group may take, or else what the machine
// has; zero when that cannot be known.
func availableMemory(root fs.FS) int64 {
	least := int64(math.MaxInt64)
	for _, n := range append(groupLimits(root), machineMemory(root)) {
		if n > 0 {
			least = min(least, n)
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

// groupLimits returns the limits of the control groups that the process is in, of both versions: its own and those around it.
func groupLimits(root fs.FS) (limits []int64) {
	data, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		folder, file := "", ""
		switch {
		case fields[1] == "":
			folder, file = "sys/fs/cgroup", "memory.max"
		case slices.Contains(strings.Split(fields[1], ","), "memory"):
			folder, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		limits = append(limits, limitsAbove(root, folder, fields[2], file)...)
	}
	return limits
}

// limitsAbove reads the file in the group and in all around it, up to the one that is mounted at folder. In a container the group's
// own path may not be there, but what is mounted is the container's group then.
func limitsAbove(root fs.FS, folder, group, file string) (limits []int64) {
	for at := path.Clean("/" + group); ; at = path.Dir(at) {
		if n, ok := readNumber(root, path.Join(folder, at, file)); ok {
			limits = append(limits, n)
		}
		if at == "/" {
			return limits
		}
	}
}

// readNumber reads a file with one number in it; the word max is none.
func readNumber(root fs.FS, name string) (int64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil && n > 0
}

// machineMemory returns the memory of the machine in bytes, zero when that cannot be known.
func machineMemory(root fs.FS) int64 {
	data, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return systemMemory()
	}
	for line := range strings.Lines(string(data)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 && kib > 0 && kib < math.MaxInt64>>10 {
			return kib << 10
		}
	}
	return 0
}
