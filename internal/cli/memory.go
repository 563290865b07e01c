package cli

import (
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// gcPercent lets the heap grow to four times what is in use before garbage is collected, which costs a gateway some 25
// MiB and saves a few per cent of its CPU.
const gcPercent = 300

// tuneMemory sets how the runtime spends memory, where GOGC and GOMEMLIMIT do not say it: lavishly, but short of what the
// process may have.
func tuneMemory(root string) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit := memoryLimit(root); limit < math.MaxInt64 {
			debug.SetMemoryLimit(limit / 10 * 9) // the rest is for what the runtime does not count, such as SQLite's memory
		}
	}
}

// memoryLimit is the least memory.max of this process's cgroup and those above it (cgroup v2), in bytes; math.MaxInt64
// where there is none. root is /, or a folder that stands for it.
func memoryLimit(root string) int64 {
	limit := int64(math.MaxInt64)
	cgroups, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(cgroups)) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for dir := path.Clean("/" + own); ; dir = path.Dir(dir) {
			text, err := os.ReadFile(path.Join(root, "sys/fs/cgroup", dir, "memory.max"))
			if n, bad := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && bad == nil {
				limit = min(limit, n)
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}
