package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/config"
	"github.com/breakwater-gateway/breakwater/internal/server"
)

func newServe() *cobra.Command {
	var format, level, adminURL string
	var probe bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Run the gateway until SIGTERM or Ctrl-C. It then stops in order: /readyz says 503, it accepts for shutdown_delay
more, answers those who wait, and lets running attempts end for up to drain_timeout. A second signal ends it at once;
what was not written down is then delivered again after the start.

SIGHUP, a change of the file, and POST /api/v1/reload load the configuration again. A file with a fault changes nothing.

With --probe it runs nothing and asks a running gateway whether it can take events: exit code 0 yes, 1 no, 3 it cannot
be reached. It is made for the health check of a container.`,
		Example: `  breakwater serve
  breakwater serve --config /etc/breakwater/routes.yaml --log-format json
  breakwater serve --probe`,
		Args: cobra.NoArgs,
	}
	path := addConfigFlag(c)
	addAdminFlag(c, &adminURL)
	c.Flags().StringVar(&format, "log-format", "auto", "json, console, or auto: console on a terminal")
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().BoolVar(&probe, "probe", false, "ask the gateway at --admin whether it is ready, and end")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if probe {
			return askReady(c.Context(), adminURL)
		}
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(200) // the heap is small: 10 MB more of it save 2 % of the CPU
		}
		stderr := c.ErrOrStderr()
		if format == "auto" {
			format = "json"
			if isTerminal(stderr) {
				format = "console"
			}
		}
		tuneMemory("/")
		log, flush, err := newLog(stderr, format, level)
		if err != nil {
			return err
		}
		defer flush()
		started := func(s server.Started) {
			if format == "console" {
				greet(stderr, s)
				return
			}
			log.Info("serving", zap.String("version", thisBuild().Version), zap.String("listen", s.Webhook),
				zap.String("admin", s.Admin), zap.String("journal", s.Journal))
		}
		return serve(c.Context(), stderr, *path, log, flush, started)
	}
	return c
}

// serve runs the gateway with the signals of a service.
func serve(ctx context.Context, stderr io.Writer, path string, log *zap.Logger, flush func(), started func(server.Started)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)

	stop := make(chan os.Signal, 2)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(stop)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	go func() {
		for range 2 {
			select {
			case <-ended:
				return
			case <-stop:
			}
			if ctx.Err() != nil {
				flush()
				fmt.Fprintln(stderr, "breakwater: ended at once; what was under way is delivered again after the start")
				os.Exit(exitFailed)
			}
			cancel()
		}
	}()

	b := thisBuild()
	err := server.Run(ctx, server.Options{
		ConfigPath: path, Version: b.Version, Revision: b.Revision, Log: log, Hangup: hangup, Started: started,
	})
	var problems config.Problems
	if errors.As(err, &problems) {
		return exitError{exitUsage, err}
	}
	return err
}

// greet says in one line where everything is.
func greet(w io.Writer, s server.Started) {
	var paths []string
	for _, name := range slices.Sorted(maps.Keys(s.Config.Proxy.Sources)) {
		paths = append(paths, s.Webhook+s.Config.Proxy.Sources[name].Path)
	}
	fmt.Fprintf(w, "Breakwater takes Stripe's events at %s, tells about itself at %s, and keeps its journal in %s. Ctrl-C stops it.\n",
		strings.Join(paths, " and "), s.Admin, s.Journal)
}

func addAdminFlag(c *cobra.Command, target *string) {
	url := os.Getenv("BREAKWATER_ADMIN")
	if url == "" {
		url = "http://127.0.0.1:8421"
	}
	c.Flags().StringVar(target, "admin", url, "the gateway's admin listener (environment: BREAKWATER_ADMIN)")
}

// askReady asks /readyz. Probes need no token; with one they are told why not.
func askReady(ctx context.Context, adminURL string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	g, err := reach(adminURL)
	if err != nil {
		return err
	}
	defer g.Close()
	return g.explain(g.Ready(ctx))
}
