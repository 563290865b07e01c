package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// routes is a configuration of defaults: what is measured is what an operator gets.
const routes = `version: 1
listen: %s
admin: {listen: %s}
journal: sqlite:breakwater.db
sources:
  ` + sourceName + `: {path: ` + webhookPath + `, signing_secrets: [` + signingSecret + `]}
routes:
  - {types: ["*"], to: [` + backendName + `]}
backends:
  ` + backendName + `: {url: "http://%s/"}
`

// gateway is a running gateway: the release binary, with a log line for each event in a file.
type gateway struct {
	*process
	addr, admin string
}

// startGateway starts the gateway on the journal in dir, with more at the end of its configuration, where its backends are.
// It does not wait until it listens.
func (o options) startGateway(ctx context.Context, dir, backend, more string) (*gateway, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "routes.yaml")
	if err := os.WriteFile(config, append(fmt.Appendf(nil, routes, addr, admin, backend), more...), 0o600); err != nil {
		return nil, err
	}
	p, err := start(exec.CommandContext(ctx, o.bin, "serve", "--config", config), filepath.Join(dir, "gateway.log"))
	if err != nil {
		return nil, err
	}
	return &gateway{process: p, addr: addr, admin: admin}, nil
}

// metrics returns the gateway's metrics by name and labels.
func (g *gateway) metrics() (map[string]float64, error) {
	res, err := http.Get("http://" + g.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	m := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "} ")
		if !ok {
			name, value, _ = strings.Cut(lines.Text(), " ")
		} else {
			name += "}"
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			m[name] = v
		}
	}
	return m, lines.Err()
}

const (
	metricPending = `breakwater_deliveries_pending{backend="` + backendName + `"}`
	metricDropped = `breakwater_history_dropped_total`
)

func metricEvents(result string) string {
	return `breakwater_events_total{result="` + result + `",source="` + sourceName + `"}`
}

// stats asks a backend what it has seen.
func stats(addr string) (s backendStats, err error) {
	res, err := http.Get("http://" + addr + "/stats")
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	return s, json.NewDecoder(res.Body).Decode(&s)
}
