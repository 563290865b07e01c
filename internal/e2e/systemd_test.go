package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// notifySocket is the end of sd_notify(3) that systemd holds. It returns its address and what it has been told.
func notifySocket(t *testing.T) (addr string, told func() []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify-") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	addr = filepath.Join(dir, "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); os.RemoveAll(dir) })
	var (
		mu       sync.Mutex
		messages []string
	)
	go func() {
		for b := make([]byte, 4096); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			messages = append(messages, string(b[:n]))
			mu.Unlock()
		}
	}()
	return addr, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), messages...)
	}
}

// What Type=notify-reload and WatchdogSec of breakwater.service rest on.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	addr, told := notifySocket(t)
	s := newSite(t, "", backend{"nobody", "http://" + freeAddr(t)})
	p := s.start(t, "NOTIFY_SOCKET="+addr, "WATCHDOG_USEC=200000")

	// await waits for a message that has all of these lines, after the first n messages, and returns how many came.
	await := func(n int, lines ...string) (next int) {
		eventually(t, 10*time.Second, "systemd is told "+strings.Join(lines, " "), func() bool {
			for i, m := range told() {
				if i < n {
					continue
				}
				all := true
				for _, l := range lines {
					all = all && strings.Contains(m, l)
				}
				if all {
					next = i + 1
					return true
				}
			}
			return false
		})
		return next
	}
	n := await(0, "READY=1")
	await(n, "WATCHDOG=1")
	p.signal(syscall.SIGHUP)
	n = await(n, "RELOADING=1", "MONOTONIC_USEC=")
	n = await(n, "READY=1")
	if code := p.stop(); code != 0 {
		t.Errorf("ended with %d, want 0", code)
	}
	await(n, "STOPPING=1")
}

// systemd's own tool hands the socket over, as breakwater.socket does.
func TestSystemdSocketActivation(t *testing.T) {
	t.Parallel()
	need(t, "systemd-socket-activate")
	l := newLedger(t)
	s := newSite(t, "", backend{"ledger", l.URL})
	start(t, exec.Command("systemd-socket-activate", "--listen="+s.listen, "--fdname=http",
		"--setenv=STRIPE_SIGNING_SECRET", binary, "serve", "--config", s.config()))
	eventually(t, 10*time.Second, "the socket is there", func() bool {
		c, err := net.Dial("tcp", s.listen) // the first connection starts the gateway
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
	if status, body := post(t, s.url(), invoicePaid()); status/100 != 2 {
		t.Errorf("answered %d %q, want 2xx", status, body)
	}
}

// The unit is one that systemd takes, and it lets strangers fill neither memory, nor the disk with logs, nor leave a core
// with secrets in it.
func TestUnits(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	dir := t.TempDir()
	for _, name := range []string{"breakwater.service", "breakwater.socket"} {
		unit, err := os.ReadFile(filepath.Join(root, "deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		here := strings.ReplaceAll(string(unit), "/usr/local/bin/breakwater", binary)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(here), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, limit := range []string{"LimitCORE=0", "LimitNOFILE=", "MemoryMax=", "LogRateLimitBurst="} {
			if name == "breakwater.service" && !strings.Contains(here, "\n"+limit) {
				t.Errorf("%s: no %s", name, limit)
			}
		}
	}
	analyze := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "systemd-analyze", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for line := range strings.Lines(analyze("verify", "./breakwater.service", "./breakwater.socket")) {
		if strings.Contains(line, "breakwater.") && !strings.Contains(line, "notify-reload") { // since systemd 253
			t.Error(line)
		}
	}
	analyze("security", "--offline=true", "--threshold=15", "./breakwater.service")
}

// Nobody but the compose file bounds a container.
func TestComposeBoundsEachService(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "deploy", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Memory  string         `yaml:"mem_limit"`
			Tasks   int            `yaml:"pids_limit"`
			Limits  map[string]int `yaml:"ulimits"`
			Logging struct{ Options map[string]string }
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Services) == 0 {
		t.Error("no services")
	}
	for name, s := range file.Services {
		core, ok := s.Limits["core"]
		if s.Memory == "" || s.Tasks == 0 || core != 0 || !ok || s.Logging.Options["max-size"] == "" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
