package main

import (
	"testing"
	"testing/fstest"

	"github.com/magpiemq/magpie/cmd/magpie/internal/config"
)

// files are the files of a system, by path.
func files(content map[string]string) fstest.MapFS {
	fs := make(fstest.MapFS)
	for name, text := range content {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fs
}

func TestAvailableMemory(t *testing.T) {
	const machine = "MemTotal:        8000000 kB\nMemFree:         1000000 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no cgroup": {map[string]string{"proc/meminfo": machine}, 8000000 << 10},
		"v2": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/system.slice/magpie.service\n",
			"sys/fs/cgroup/system.slice/magpie.service/memory.max": "1073741824\n", "sys/fs/cgroup/system.slice/memory.max": "max\n",
		}, 1 << 30},
		"v2, a group around it": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "1073741824\n", "sys/fs/cgroup/a/memory.max": "536870912\n",
		}, 512 << 20},
		"v2, in a container": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n",
		}, 256 << 20},
		"v2, no limit": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n",
		}, 8000000 << 10},
		"v1": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/1\n1:name=systemd:/\n",
			"sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "1073741824\n",
		}, 1 << 30},
		"v1, in a container": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "4:memory:/docker/1\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824\n",
		}, 1 << 30},
		"v1, no limit": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 8000000 << 10},
		"nonsense": {map[string]string{"proc/meminfo": "MemTotal: much", "proc/self/cgroup": "what\n::\n0::/../..\n"}, 0},
	} {
		if got := availableMemory(files(c.files)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	for text, want := range map[string]int64{"32MiB": 32 << 20, "100000000": 1e8, "unlimited": 0} {
		s := &server{cfg: &config.Config{}}
		if err := s.cfg.Memory.Limit.Parse(text); err != nil {
			t.Fatal(err)
		}
		if got, err := s.memoryLimit(); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	s := &server{cfg: &config.Config{}}
	s.cfg.Memory.Limit.Bytes = leastMemory - 1
	if _, err := s.memoryLimit(); err == nil {
		t.Error("31 MiB are enough")
	}
}
