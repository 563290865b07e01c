// Package e2e runs the built binary as an operator does: with a file of its own, in front of PHP and Node for real.
//
// BREAKWATER_BIN names the binary; without it one is built. What a test needs besides Go is looked for: a test that
// lacks it is skipped by name, or fails when BREAKWATER_REQUIRE (a list such as "node,php") asks for it.
package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	root   = "../.." // of the repository
	secret = "whsec_end_to_end"
)

// binary is the path of the gateway under test.
var binary string

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	if binary = os.Getenv("BREAKWATER_BIN"); binary != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "breakwater-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "breakwater")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "./cmd/breakwater")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the gateway: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// need skips the test when the machine lacks name, or fails it when BREAKWATER_REQUIRE lists it. setup.sh installs all.
func need(t *testing.T, name string) {
	t.Helper()
	var err error
	switch name {
	case "axe":
		_, err = os.Stat("axe/node_modules/axe-core")
	case "node":
		_, err = os.Stat(filepath.Join(root, "deploy/examples/node/node_modules/stripe"))
		fallthrough
	default:
		if _, look := exec.LookPath(name); look != nil {
			err = look
		}
	}
	if err == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("BREAKWATER_REQUIRE"), ","), name) {
		t.Fatalf("%s is required here: %v (make setup installs it)", name, err)
	}
	t.Skipf("needs %s: %v (make setup installs it)", name, err)
}

// eventually asks until ok, and fails the test when that takes longer than limit.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ports are given out once each. They lie below those that the kernel gives to outgoing connections: one of these could
// take a port between our looking and the program's listening.
var (
	portsMu sync.Mutex
	ports   = rand.Perm(10000)
)

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	for len(ports) > 0 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+ports[0]))
		ports = ports[1:]
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}
