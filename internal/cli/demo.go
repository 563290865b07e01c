package cli

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/server"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// demoConfig is as small and as quick as it can be: what takes minutes in life takes seconds here.
const demoConfig = `version: 1
listen: "127.0.0.1:0"
admin: {listen: "127.0.0.1:0"}
journal: sqlite:breakwater.db
journal_limits: {reserve: 1MiB}
sources:
  main: {path: /stripe/webhook, signing_secrets: ["%s"]}
backends:
  legacy:
    url: "%s"
    retry: {initial: 500ms, max: 1s}
    breaker: {failures: 3, open_for: 1s}
routes:
  - {types: ["*"], to: [legacy]}
resign_after: 2s
`

const (
	demoSecret = "whsec_demo_demo_demo_demo_demo"
	demoUp     = 8 * time.Second // how long the backend works, and then
	demoDown   = 5 * time.Second // does not
	demoFinish = 20 * time.Second
)

func newDemo() *cobra.Command {
	var duration time.Duration
	var rate string
	c := &cobra.Command{
		Use:   "demo",
		Short: "See it work, with nothing set up",
		Long: `Run a whole gateway in a temporary folder, in front of a backend that fails now and then, with a toy Stripe that
sends it signed events. What happens is told line by line; at the end it is counted whether every event that got its
2xx has reached the backend, byte for byte. Ctrl-C ends it, and nothing is left behind.`,
		Example: `  breakwater demo
  breakwater demo --duration 30s --rate 10/s`,
		Args: cobra.NoArgs,
	}
	c.Flags().DurationVar(&duration, "duration", 0, "how long events are sent (default: until Ctrl-C)")
	c.Flags().StringVar(&rate, "rate", "3/s", "how many events are sent")
	c.RunE = func(c *cobra.Command, _ []string) error {
		perSecond, err := parseRate(rate)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return runDemo(ctx, c.OutOrStdout(), duration, float64(perSecond))
	}
	return c
}

// runDemo sends events for duration (0: until ctx ends), waits until they are delivered, and counts.
func runDemo(ctx context.Context, out io.Writer, duration time.Duration, rate float64) error {
	dir, err := os.MkdirTemp("", "breakwater-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	shop := newShop(out)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	backend := &http.Server{Handler: shop, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = backend.Serve(l) }()
	defer backend.Close()

	path := filepath.Join(dir, "routes.yaml")
	text := fmt.Sprintf(demoConfig, demoSecret, "http://"+l.Addr().String()+"/webhook.php")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(dir, "gateway.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	log, flush, err := newLog(logFile, "json", "info")
	if err != nil {
		return err
	}
	defer flush()

	// The gateway outlives ctx: after Ctrl-C it still has events to deliver.
	running, stopGateway := context.WithCancel(context.WithoutCancel(ctx))
	defer stopGateway()
	started, ended := make(chan server.Started, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(running, server.Options{
			ConfigPath: path, Version: thisBuild().Version, Log: log,
			Started: func(s server.Started) { started <- s },
		})
	}()
	var where server.Started
	select {
	case where = <-started:
	case err := <-ended:
		return err
	}
	fmt.Fprintf(out, demoIntro, where.Webhook, demoSecret, where.Admin, dir)

	url := where.Webhook + "/stripe/webhook"
	shop.sendEvent(ctx, url) // the clock starts when everything is warm
	sending := ctx
	if duration > 0 {
		var cancel context.CancelFunc
		sending, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	go shop.openAndClose(sending, duration)
	shop.sendEvents(sending, url, rate)
	shop.finish()
	stopGateway()
	if err := <-ended; err != nil {
		return err
	}
	return shop.tally()
}

const demoIntro = `A gateway is running, with a toy Stripe before it and a backend behind it that fails now and then.

  send an event yourself   breakwater send invoice.paid --to %[1]s/stripe/webhook --secret %[2]s
  see what waits, and why  breakwater events --state pending --admin %[3]s
  watch                    breakwater tail --admin %[3]s
  see it in a browser      %[3]s
  files                    %[4]s (removed at the end)

`

// openAndClose lets the backend work and fail in turns until ctx ends.
func (s *shop) openAndClose(ctx context.Context, duration time.Duration) {
	up, down := demoUp, demoDown
	if duration > 0 && duration < up+down { // so that a short demo shows it too
		up, down = duration/3, duration/3
	}
	for {
		for _, phase := range []struct {
			down bool
			last time.Duration
		}{{false, up}, {true, down}} {
			s.setDown(phase.down)
			select {
			case <-ctx.Done():
				return
			case <-time.After(phase.last):
			}
		}
	}
}

var demoTypes = []string{
	"invoice.paid", "customer.subscription.updated", "checkout.session.completed", "charge.succeeded",
	"payment_intent.succeeded", "customer.created", "charge.refunded",
}

// sendEvent plays Stripe with one event.
func (s *shop) sendEvent(ctx context.Context, url string) {
	ev := toystripe.New(demoTypes[rand.N(len(demoTypes))], toystripe.Options{})
	// What Stripe has begun to send it sends to the end.
	req, err := toystripe.Request(context.WithoutCancel(ctx), url, ev, []string{demoSecret}, toystripe.Sending{})
	if err == nil {
		s.send(req, ev)
	}
}

// sendEvents plays Stripe until ctx ends.
func (s *shop) sendEvents(ctx context.Context, url string, rate float64) {
	tick := time.NewTicker(max(time.Duration(float64(time.Second)/rate), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.sendEvent(ctx, url)
	}
}
