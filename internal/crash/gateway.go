package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	gatewayPackage = "github.com/breakwater-gateway/breakwater/cmd/breakwater"
	ackEarlyTag    = "breakwater_ack_early"
	webhookPath    = "/stripe/webhook"
	signingSecret  = "whsec_crash"
)

// routes has times so short that hundreds of kills, each with failures before and after it, fit in minutes.
const routes = `version: 1
listen: %s
admin: {listen: %s}
journal: sqlite:breakwater.db
sources:
  main: {path: ` + webhookPath + `, signing_secrets: [` + signingSecret + `]}
backends:
  ledger:
    url: %s
    timeout: 1s
    retry: {initial: 100ms, max: 1s}
    breaker: {failures: 5, open_for: 500ms}
routes:
  - {types: ["*"], to: [ledger]}
inline_timeout: 400ms
`

// gateway is the program under test: one folder, one configuration, and a process at a time.
type gateway struct {
	bin, dir      string
	listen, admin string // host:port
	log           *os.File
	run           *process // nil while it is down
}

// process is one life of the gateway.
type process struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	opened chan time.Duration // from its start until it took connections; closed when it ended before
}

func build(ctx context.Context, o options) (string, error) {
	if o.bin != "" {
		return filepath.Abs(o.bin)
	}
	bin := filepath.Join(o.dir, "breakwater")
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", bin}
	if o.control {
		args = append(args, "-tags", ackEarlyTag)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, gatewayPackage)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the gateway: %w\n%s", err, out)
	}
	return bin, nil
}

func newGateway(bin, dir, backend string) (*gateway, error) {
	g := &gateway{bin: bin, dir: filepath.Join(dir, "gateway")}
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if g.listen, err = freeAddr(); err != nil {
		return nil, err
	}
	if g.admin, err = freeAddr(); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(routes, g.listen, g.admin, backend)
	if err := os.WriteFile(filepath.Join(g.dir, "routes.yaml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	g.log, err = os.Create(filepath.Join(dir, "gateway.log"))
	return g, err
}

// freeAddr returns a loopback address on which nobody listens. Its port is below those that the kernel gives to
// outgoing connections: else one of these could take it while the gateway is down.
func freeAddr() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000)))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", fmt.Errorf("no free port between 15000 and 30000")
}

func (g *gateway) webhook() string { return "http://" + g.listen + webhookPath }

// start starts the gateway on its journal. The context's end kills it.
func (g *gateway) start(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, g.bin, "serve", "--config", filepath.Join(g.dir, "routes.yaml"))
	cmd.Stdout, cmd.Stderr = g.log, g.log
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, ended: make(chan struct{}), opened: make(chan time.Duration, 1)}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	go func() {
		defer close(p.opened)
		for {
			if c, err := net.Dial("tcp", g.listen); err == nil {
				p.opened <- time.Since(began)
				_ = c.Close()
				return
			}
			select {
			case <-p.ended:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	g.run = p
	return nil
}

// kill ends the gateway as a power switch would end its process. An error is there when it had ended by itself.
func (g *gateway) kill() error {
	p := g.run
	g.run = nil
	select {
	case <-p.ended:
		return fmt.Errorf("the gateway ended by itself: %v\n%s", p.cmd.ProcessState, g.lastWords())
	default:
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return nil
}

func (g *gateway) lastWords() string {
	b, err := os.ReadFile(g.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// pending asks how many deliveries are pending, by the gateway's own counters.
func (g *gateway) pending(ctx context.Context) (int, error) {
	body, err := g.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), `breakwater_deliveries_pending{backend="ledger"} `); ok {
			n, err := strconv.ParseFloat(v, 64)
			return int(n), err
		}
	}
	return 0, fmt.Errorf("/metrics has no breakwater_deliveries_pending for the backend")
}

// count looks through all events in a state.
func (g *gateway) count(ctx context.Context, state string) (n int, err error) {
	for cursor := ""; ; {
		body, err := g.get(ctx, "/api/v1/events?limit=200&state="+state+"&cursor="+url.QueryEscape(cursor))
		if err != nil {
			return 0, err
		}
		var page struct {
			Events []json.RawMessage `json:"events"`
			Next   string            `json:"next"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return 0, fmt.Errorf("list %s events: %w", state, err)
		}
		n += len(page.Events)
		if cursor = page.Next; cursor == "" {
			return n, nil
		}
	}
}

func (g *gateway) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.admin+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, res.Status, body)
	}
	return body, err
}
