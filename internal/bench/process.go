package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// process is a program that takes part in a measurement.
type process struct {
	cmd   *exec.Cmd
	out   *bufio.Reader // what it says on standard output; nil when that goes to the log
	log   string        // path of what it says on standard error
	began time.Time
	ended chan struct{}
}

// startRole starts this program in one of its roles.
func startRole(ctx context.Context, log, role string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{role}, args...)...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout = w
	p, err := start(cmd, log)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	p.out = bufio.NewReader(r)
	return p, nil
}

// start starts cmd, with its output in a log file.
func start(cmd *exec.Cmd, log string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stderr = f
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	p := &process{cmd: cmd, log: log, began: time.Now(), ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// startServer starts a role that says where it listens.
func startServer(ctx context.Context, log, role string, args ...string) (*process, string, error) {
	p, err := startRole(ctx, log, role, args...)
	if err != nil {
		return nil, "", err
	}
	addr, err := p.out.ReadString('\n')
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", role, errors.Join(err, p.err()))
	}
	return p, strings.TrimSpace(addr), nil
}

// kill ends the program with -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// stop lets the program end in order; nginx ends its workers.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		p.kill()
	}
}

// err is what a program that has ended said last.
func (p *process) err() error {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	return fmt.Errorf("%v: %s", p.cmd.Args, b[max(0, len(b)-1000):])
}

// await waits until somebody listens on addr.
func (p *process) await(addr string) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if c, err := net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended by itself: %w", p.err())
		case <-time.After(2 * time.Millisecond):
		}
	}
	return fmt.Errorf("nobody listens on %s: %w", addr, p.err())
}

// freeAddr returns a loopback address on which nobody listens, with a port that the kernel gives to no connection.
func freeAddr() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000)))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", errors.New("no free port between 15000 and 30000")
}

// tick is the unit of CPU time in /proc (USER_HZ).
const tick = 10 * time.Millisecond

// pids are the process and its children: nginx works in these.
func (p *process) pids() []int {
	pid := p.cmd.Process.Pid
	pids := []int{pid}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(b)) {
		if child, err := strconv.Atoi(f); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// cpu is the CPU time that the program has used, in user and system mode.
func (p *process) cpu() (time.Duration, error) {
	var ticks int64
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from the third field on, see proc(5)
		for _, s := range f[11:13] {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * tick, nil
}

// peakRSS is the most memory that the program has had resident, in bytes.
func (p *process) peakRSS() (sum int64, err error) {
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		var kib int64
		_, rest, _ := strings.Cut(string(b), "VmHWM:")
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			return 0, fmt.Errorf("VmHWM of %d: %w", pid, err)
		}
		sum += kib << 10
	}
	return sum, nil
}

// machineBusy is the CPU time that the whole machine has used, in all modes but idle ones.
func machineBusy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks int64
	for i, s := range strings.Fields(line)[1:] {
		if i == 3 || i == 4 || i > 7 { // idle, iowait, and guests, which are in user
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}
