package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// sender is what send was asked for.
type sender struct {
	types       []string
	to          string
	secrets     []string
	account     string
	count       int
	rate        string
	concurrency int
	timeout     time.Duration
	stale       time.Duration
	tamper      bool
	duplicate   bool

	client  *http.Client
	limiter *rate.Limiter
	report  *sendReport
}

const sendExamples = `  breakwater send invoice.paid
  breakwater send 'customer.*' --account acct_1Pgc76B7WZ01zgkW
  breakwater send invoice.paid --secret whsec_old --secret whsec_new      as while a secret is rolled
  breakwater send invoice.paid --stale 10m                                refused: too_old
  breakwater send all --count 100 --rate 50/s --concurrency 16
  breakwater send --list`

func newSend() *cobra.Command {
	s := &sender{}
	var list, asJSON bool
	c := &cobra.Command{
		Use:   "send TYPE...",
		Short: "Send signed sample events, as Stripe would",
		Long: `Send signed sample events to a gateway, with the bodies and headers that Stripe sends, and show how they were
answered. Nothing is asked of Stripe. TYPE is an event type, a pattern such as 'invoice.*', or all.
A type without a sample is sent with a made-up object in it.

Exit codes: 0 each was answered 2xx, 1 not each, 2 wrong usage, 3 nothing answers at --to.`,
		Example: sendExamples,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return append(toystripe.Types(), "all"), cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := c.Flags()
	f.StringVar(&s.to, "to", "http://127.0.0.1:8420/stripe/webhook", "URL of a source of the gateway")
	f.StringArrayVar(&s.secrets, "secret", nil, "signing secret (whsec_...), repeatable (environment: STRIPE_SIGNING_SECRET)")
	f.StringVar(&s.account, "account", "", "connected account (acct_...)")
	f.IntVar(&s.count, "count", 1, "events of each type")
	f.StringVar(&s.rate, "rate", "", "at most this many, as in 50/s or 600/m (default: no limit)")
	f.IntVar(&s.concurrency, "concurrency", 8, "requests at once")
	f.DurationVar(&s.timeout, "timeout", 30*time.Second, "wait this long for an answer")
	f.DurationVar(&s.stale, "stale", 0, "sign with a time this long ago; negative: ahead")
	f.BoolVar(&s.tamper, "tamper", false, "change the body after signing it")
	f.BoolVar(&s.duplicate, "duplicate", false, "send each event a second time once it is answered")
	f.BoolVar(&list, "list", false, "list the types that have a sample, and send nothing")
	addJSONFlag(c, &asJSON)
	c.RunE = func(c *cobra.Command, args []string) error {
		if list {
			return listSamples(c.OutOrStdout(), asJSON)
		}
		if err := s.prepare(args); err != nil {
			return err
		}
		for _, t := range s.types {
			if !slices.Contains(toystripe.Types(), t) {
				fmt.Fprintf(c.ErrOrStderr(), "note: there is no sample of %s (see --list): the object in it is made up\n", t)
			}
		}
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		s.report = newSendReport(s.total(), asJSON)
		hide := showProgress(c.ErrOrStderr(), s.report)
		err := s.run(ctx)
		hide()
		if err != nil {
			return err
		}
		if asJSON {
			err = s.report.writeJSON(c.OutOrStdout())
		} else {
			err = s.report.write(c.OutOrStdout(), coloured(c.OutOrStdout()))
		}
		return errors.Join(err, s.failure(ctx))
	}
	return c
}

func listSamples(w io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(w, toystripe.Types())
	}
	_, err := fmt.Fprintln(w, strings.Join(toystripe.Types(), "\n"))
	return err
}

// prepare checks what was asked for; its errors are of usage.
func (s *sender) prepare(args []string) (err error) {
	if s.types, err = sampleTypes(args); err != nil {
		return err
	}
	if u, err := url.Parse(s.to); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return usageError("--to %s: want a URL such as http://127.0.0.1:8420/stripe/webhook", s.to)
	}
	if env := os.Getenv("STRIPE_SIGNING_SECRET"); len(s.secrets) == 0 && env != "" {
		s.secrets = []string{env}
	}
	if len(s.secrets) == 0 || slices.Contains(s.secrets, "") {
		return usageError("no signing secret: give --secret whsec_..., or set STRIPE_SIGNING_SECRET, to one that the source has")
	}
	if s.count < 1 || s.concurrency < 1 || s.timeout <= 0 {
		return usageError("--count, --concurrency and --timeout must be above 0")
	}
	limit, err := parseRate(s.rate)
	if err != nil {
		return err
	}
	s.limiter = rate.NewLimiter(limit, 1)
	s.client = &http.Client{
		Timeout: s.timeout,
		// Stripe does not follow redirects: they are failures.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: s.concurrency, IdleConnTimeout: time.Minute,
		},
	}
	return nil
}

// sampleTypes spells out patterns, in the order given and each type once.
func sampleTypes(args []string) ([]string, error) {
	var types []string
	for _, arg := range args {
		switch {
		case arg == "":
			return nil, usageError("a type is empty")
		case arg == "all":
			arg = "*"
		case !strings.Contains(arg, "*"):
			types = append(types, arg)
			continue
		}
		before := len(types)
		for _, t := range toystripe.Types() {
			if ok, err := path.Match(arg, t); err != nil {
				return nil, usageError("%s: not a pattern", arg)
			} else if ok {
				types = append(types, t)
			}
		}
		if len(types) == before {
			return nil, usageError("%s: no sample has such a type; see breakwater send --list", arg)
		}
	}
	if len(types) == 0 {
		return nil, usageError("which type? For one: breakwater send invoice.paid. For all that there are: breakwater send --list")
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(types, func(t string) bool {
		again := seen[t]
		seen[t] = true
		return again
	}), nil
}

// parseRate reads 50, 50/s, 600/m or 3600/h; "" is no limit.
func parseRate(text string) (rate.Limit, error) {
	if text == "" {
		return rate.Inf, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	per := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || per == 0 || n <= 0 || n > 1e6 {
		return 0, usageError("--rate %s: want a number above 0 such as 50/s or 600/m", text)
	}
	return rate.Limit(n / per), nil
}

// total is how many requests are to be sent.
func (s *sender) total() int {
	n := s.count * len(s.types)
	if s.duplicate {
		n *= 2
	}
	return n
}

// run sends everything, or until ctx ends. It gives up at once when nothing answers from the start.
func (s *sender) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	types := make(chan string)
	var workers sync.WaitGroup
	for range min(s.concurrency, s.total()) {
		workers.Go(func() {
			for t := range types {
				ev := toystripe.New(t, toystripe.Options{Account: s.account})
				err := s.send(ctx, ev)
				if err == nil && s.duplicate {
					err = s.send(ctx, ev)
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	s.feed(ctx, types)
	close(types)
	workers.Wait()
	var unreachable exitError
	if errors.As(context.Cause(ctx), &unreachable) {
		return unreachable
	}
	return nil
}

// feed hands out the types in turn until ctx ends.
func (s *sender) feed(ctx context.Context, types chan<- string) {
	for range s.count {
		for _, t := range s.types {
			if s.limiter.Wait(ctx) != nil {
				return
			}
			select {
			case types <- t:
			case <-ctx.Done():
				return
			}
		}
	}
}

// send sends one event and notes its answer. Its error ends everything.
func (s *sender) send(ctx context.Context, ev toystripe.Event) error {
	start := time.Now()
	status, body, err := s.post(ctx, ev, start.Add(-s.stale))
	switch {
	case err == nil:
		s.report.add(ev, status, excerpt(body, ev.ID), time.Since(start))
	case ctx.Err() != nil: // cut by us: neither answered nor failed
		return ctx.Err()
	case notDialed(err) && !s.report.anyAnswer():
		return exitError{exitUnreachable, fmt.Errorf("no gateway at %s (%s); is it running? Start it with `make run`", s.to, failureText(err))}
	default:
		s.report.add(ev, 0, failureText(err), time.Since(start))
	}
	return nil
}

// post returns the answer's status and how its body begins.
func (s *sender) post(ctx context.Context, ev toystripe.Event, signedAt time.Time) (int, []byte, error) {
	req, err := toystripe.Request(ctx, s.to, ev, s.secrets, toystripe.Sending{SignedAt: signedAt, Tamper: s.tamper})
	if err != nil {
		return 0, nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	return resp.StatusCode, body, err
}

// failure is the error that the command ends with, and what to do about it.
func (s *sender) failure(ctx context.Context) error {
	good, bad, status := s.report.counts()
	switch {
	case ctx.Err() != nil && good+bad < s.total():
		return fmt.Errorf("stopped: %d of %d were answered", good+bad, s.total())
	case bad == 0:
		return nil
	}
	text := fmt.Sprintf("%d of %d not answered 2xx", bad, good+bad)
	if hint := sendHints[status]; hint != "" && s.stale == 0 && !s.tamper {
		text += ". " + hint
	}
	return exitError{exitFailed, errors.New(text)}
}

// sendHints say what an answer most often comes from.
var sendHints = map[int]string{
	http.StatusBadRequest: "400 means that the signature was not believed: is --secret one of the source's signing_secrets?",
	http.StatusNotFound:   "404 means that no source has this path: compare --to with sources in routes.yaml",
	http.StatusServiceUnavailable: "503 means that the gateway could not keep the event, or that its backend has to answer first: " +
		"its log says which",
}

// notDialed reports whether no connection was made.
func notDialed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// failureText is a short text for what went wrong, the same for each request that it happens to.
func failureText(err error) string {
	var timeout net.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "no such host: " + dns.Name
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed without an answer"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	return err.Error()
}
