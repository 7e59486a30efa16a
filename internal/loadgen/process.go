package loadgen

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what the broker's process has used.
type Usage struct {
	PID           int     `json:"pid"`
	CPU           float64 `json:"cpu"`                  // processors, user and system mode
	PerMessage    float64 `json:"us_per_message"`       // processor time in microseconds for each message delivered, or sent if none was; 0 without messages
	RSSBefore     int64   `json:"rss_before"`           // bytes of memory before the first connection
	RSS           int64   `json:"rss"`                  // at the end of the measured time
	PerConnection float64 `json:"bytes_per_connection"` // growth of memory from the first connection to the beginning of the measured time
}

// process is a broker's process on this machine. A nil one is nobody's.
type process struct {
	pid                   int
	rss, rssBegin, rssEnd int64
	cpuBegin, cpuEnd      time.Duration
	err                   error
}

// observe begins to look at a process; 0 is none.
func observe(pid int) (*process, error) {
	if pid == 0 {
		return nil, nil
	}
	p := &process{pid: pid}
	var err error
	if _, err = p.cpu(); err != nil {
		return nil, fmt.Errorf("process %d of the broker: %w", pid, err)
	}
	if p.rss, err = p.memory(); err != nil {
		return nil, fmt.Errorf("process %d of the broker: %w", pid, err)
	}
	return p, nil
}

// begin and end are the borders of the measured time. A process that has ended shows in usage.
func (p *process) begin() {
	if p == nil {
		return
	}
	p.rssBegin, p.err = p.memory()
	if p.err == nil {
		p.cpuBegin, p.err = p.cpu()
	}
}

func (p *process) end() {
	if p == nil || p.err != nil {
		return
	}
	if p.cpuEnd, p.err = p.cpu(); p.err == nil {
		p.rssEnd, p.err = p.memory()
	}
}

// usage is nil if the process has ended.
func (p *process) usage(seconds float64, messages uint64, connections int) *Usage {
	if p == nil || p.err != nil {
		return nil
	}
	used := (p.cpuEnd - p.cpuBegin).Seconds()
	u := &Usage{PID: p.pid, CPU: used / seconds, RSSBefore: p.rss, RSS: p.rssEnd}
	if messages > 0 {
		u.PerMessage = used * 1e6 / float64(messages)
	}
	if connections > 0 {
		u.PerConnection = float64(p.rssBegin-p.rss) / float64(connections)
	}
	return u
}

// clockTick is the unit of time in /proc/PID/stat, on all common systems.
const clockTick = 10 * time.Millisecond

// cpu reads utime and stime, the 14th and 15th field. The second is a name in parentheses that may hold anything.
func (p *process) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	const utime = 14 - 3 // fields begin with the third
	if len(fields) <= utime+1 {
		return 0, fmt.Errorf("processor time: %q is not what /proc/PID/stat has", b)
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	system, err := strconv.ParseInt(fields[utime+1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	return time.Duration(user+system) * clockTick, nil
}

// memory reads the resident memory in bytes.
func (p *process) memory() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("resident memory: there is no VmRSS in /proc/%d/status", p.pid)
}
