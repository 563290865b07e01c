package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// variant is something that takes live events.
type variant struct {
	letter, name string
	start        func(ctx context.Context, dir, backend string) (*process, string, error)
}

var variants = []variant{
	{"a", "net/http handler, verifies", func(ctx context.Context, dir, _ string) (*process, string, error) {
		return startServer(ctx, filepath.Join(dir, "handler.log"), "handler")
	}},
	{"b", "ReverseProxy, verifies", func(ctx context.Context, dir, backend string) (*process, string, error) {
		return startServer(ctx, filepath.Join(dir, "proxy.log"), "proxy", "-to", "http://"+backend+"/")
	}},
	{"c", "nginx proxy_pass", startNginx},
	{"d", "breakwater, backend healthy", nil},
	{"e", "breakwater, backend down", nil},
}

// nginxConfig has what a proxy that is to be fast gets: connections to the backend are kept.
const nginxConfig = `%s
daemon off;
worker_processes auto;
pid %[2]s/nginx.pid;
events { worker_connections 1024; }
http {
  access_log %[2]s/access.log;
  client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi;
  uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
  upstream backend { server %[3]s; keepalive 256; keepalive_requests 100000000; }
  server {
    listen %[4]s;
    keepalive_requests 100000000;
    client_body_buffer_size 64k;
    location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
`

func startNginx(ctx context.Context, dir, backend string) (*process, string, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // its folders are in ours
	}
	config, log := filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "nginx.log")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, user, dir, backend, addr), 0o600); err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(ctx, "nginx", "-c", config, "-p", dir, "-e", log)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // killed, it would leave its workers behind
	p, err := start(cmd, log)
	if err != nil {
		return nil, "", err
	}
	return p, addr, p.await(addr)
}

// sample is one measurement of a variant.
type sample struct {
	loadResult
	PerSecond  float64 `json:"events_per_second"`
	CPU        float64 `json:"cpu_us_per_event"`
	LoadCPU    float64 `json:"load_cpu_us_per_event"`
	BackendCPU float64 `json:"backend_cpu_us_per_event"`
	PeakRSS    int64   `json:"peak_rss_bytes"`
	Others     float64 `json:"others"` // share of the machine's CPU that went to anybody else
}

// measureLive measures the variants in turn, several times over.
func (o options) measureLive(ctx context.Context, r *report) error {
	for pass := range o.passes {
		for _, v := range variants {
			if !strings.Contains(o.only, v.letter) {
				continue
			}
			if _, err := exec.LookPath("nginx"); v.letter == "c" && err != nil {
				r.note("nginx is not installed: (c) is left out")
				continue
			}
			progress("pass %d of %d: (%s) %s", pass+1, o.passes, v.letter, v.name)
			if err := o.measureQuietly(ctx, r, v); err != nil {
				return fmt.Errorf("(%s) %s: %w", v.letter, v.name, err)
			}
		}
	}
	return nil
}

// noisy is how often a measurement that others disturbed is made again. The least disturbed one then counts.
const noisy = 10

func (o options) measureQuietly(ctx context.Context, r *report, v variant) error {
	var best sample
	for try := range noisy {
		if err := o.awaitQuiet(ctx); err != nil {
			return err
		}
		s, err := o.measure(ctx, r, v)
		if err != nil {
			return err
		}
		if try == 0 || s.Others < best.Others {
			best = s
		}
		if best.Others <= o.quiet {
			break
		}
		progress("  again: others used %.0f %%", 100*s.Others)
	}
	r.Live[v.letter] = append(r.Live[v.letter], best)
	return nil
}

// awaitQuiet waits for a second in which others use little, for a minute at most.
func (o options) awaitQuiet(ctx context.Context) error {
	for range 60 {
		if o.quiet >= 1 {
			break
		}
		before, err := machineBusy()
		if err != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		after, err := machineBusy()
		if err != nil {
			return err
		}
		if (after-before).Seconds()/cores <= o.quiet {
			break
		}
	}
	return ctx.Err()
}

// measure makes one measurement of a variant, on processes and a folder of its own.
func (o options) measure(ctx context.Context, r *report, v variant) (s sample, err error) {
	dir, err := os.MkdirTemp(o.dir, v.letter+"-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	backend, to, err := startServer(ctx, filepath.Join(dir, "backend.log"), "backend")
	if err != nil {
		return s, err
	}
	defer backend.kill()
	if v.letter == "e" {
		if to, err = freeAddr(); err != nil { // nobody listens there
			return s, err
		}
	}
	var p *process
	var addr string
	var g *gateway
	if v.start != nil {
		p, addr, err = v.start(ctx, dir, to)
	} else if g, err = o.startGateway(ctx, dir, to, ""); err == nil {
		p, addr, err = g.process, g.addr, g.await(g.addr)
	}
	if err != nil {
		return s, err
	}
	defer p.stop()
	if s, err = o.sampled(ctx, addr, p, backend); err != nil {
		return s, err
	}
	for _, text := range s.faults() {
		r.fault(v.letter, "%s", text)
	}
	if g != nil {
		err = r.audit(v.letter, s, g, to)
	}
	return s, err
}

// usage is what was used until a moment.
type usage struct{ all, measured, load, backend, rest time.Duration }

func use(measured, load, backend *process, rest []*process) (u usage, err error) {
	var errs [4]error
	u.all, errs[0] = machineBusy()
	u.measured, errs[1] = measured.cpu()
	u.load, errs[2] = load.cpu()
	u.backend, errs[3] = backend.cpu()
	for _, p := range rest {
		cpu, err := p.cpu()
		if err != nil {
			return u, err
		}
		u.rest += cpu
	}
	return u, errors.Join(errs[:]...)
}

// sampled runs the load against addr and measures p by it. What rest uses is not counted as of others.
func (o options) sampled(ctx context.Context, addr string, p, backend *process, rest ...*process) (s sample, err error) {
	var before, after usage
	s.loadResult, err = o.runLoad(ctx, addr,
		func(load *process) (err error) { before, err = use(p, load, backend, rest); return err },
		func(load *process) (err error) { after, err = use(p, load, backend, rest); return err })
	if err != nil {
		return s, err
	}
	if s.Events == 0 {
		return s, fmt.Errorf("no event was answered 2xx: %v", s.faults())
	}
	per := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(s.Events) }
	s.PerSecond = float64(s.Events) / s.Seconds
	s.CPU, s.LoadCPU, s.BackendCPU = per(after.measured-before.measured), per(after.load-before.load), per(after.backend-before.backend)
	ours := after.measured + after.load + after.backend + after.rest - before.measured - before.load - before.backend - before.rest
	s.Others = max(0, (after.all-before.all-ours).Seconds()) / (s.Seconds * cores)
	s.PeakRSS, err = p.peakRSS()
	return s, err
}
