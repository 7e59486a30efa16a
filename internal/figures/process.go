package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what a process has used since its start.
type usage struct {
	cpu     time.Duration // in user and system mode
	written int64         // bytes that it has caused to be written to a disk
}

func (u usage) since(v usage) usage { return usage{u.cpu - v.cpu, u.written - v.written} }

// usage asks the kernel about the broker. It works on Linux.
func (b *server) usage() (u usage, err error) {
	proc := fmt.Sprintf("/proc/%d/", b.cmd.Process.Pid)
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		return u, fmt.Errorf("processor time of the broker: %w", err)
	}
	if u.cpu, err = parseStat(string(stat)); err != nil {
		return u, err
	}
	io, err := os.ReadFile(proc + "io")
	if err != nil {
		return u, fmt.Errorf("bytes that the broker has written: %w", err)
	}
	u.written, err = field(string(io), "write_bytes:")
	return u, err
}

// tick is the unit of time in /proc/PID/stat. It is this long on all common systems.
const tick = 10 * time.Millisecond

// parseStat reads utime and stime, the 14th and 15th field. The second is a name in parentheses that may hold anything.
func parseStat(stat string) (time.Duration, error) {
	rest := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const utime = 14 - 3 // rest begins with the third
	if len(rest) <= utime+1 {
		return 0, fmt.Errorf("processor time: %q is not what /proc/PID/stat has", stat)
	}
	user, err := strconv.ParseInt(rest[utime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	system, err := strconv.ParseInt(rest[utime+1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}

// field returns the number that stands behind a name in a file of /proc.
func field(file, name string) (int64, error) {
	for line := range strings.Lines(file) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			words := strings.Fields(rest)
			if len(words) == 0 {
				break
			}
			return strconv.ParseInt(words[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("there is no %s", name)
}

// resident returns how much memory the broker has, in bytes: now, and at most until now.
func (b *server) resident() (now, most int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		return 0, 0, fmt.Errorf("memory of the broker: %w", err)
	}
	if now, err = field(string(status), "VmRSS:"); err != nil {
		return 0, 0, err
	}
	most, err = field(string(status), "VmHWM:")
	return now << 10, most << 10, err
}

// ownTime is how much processor time this process has used.
func ownTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
