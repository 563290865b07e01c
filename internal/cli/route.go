package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/config"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// routed is where an event of one source would go; route --json prints a list of them.
type routed struct {
	Source   string   `json:"source"`
	Routes   []int    `json:"routes"` // from 1
	Backends []string `json:"backends"`
	Queued   []string `json:"queued"` // those of Backends that are not tried while Stripe waits
	Answer   string   `json:"answer"`
	HoldFor  string   `json:"hold_for,omitempty"`
	Reason   string   `json:"reason,omitempty"` // why there are no backends: rule, no_route, ping
}

func newRoute() *cobra.Command {
	var event proxy.Event
	var expect []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "route TYPE",
		Short: "Say where an event would go",
		Long: `Say where an event would go by the configuration, and how Stripe would be answered. No gateway is needed.
With --expect the exit code is 1 when it would go elsewhere: put it into your tests.`,
		Example: `  breakwater route invoice.paid
  breakwater route invoice.paid --account acct_1Pgc76B7WZ01zgkW --livemode=false
  breakwater route invoice.paid --expect legacy --expect node
  breakwater route radar.early_fraud_warning.created --expect ""   (to no backend)`,
		Args: cobra.ExactArgs(1),
	}
	path := addConfigFlag(c)
	addJSONFlag(c, &asJSON)
	c.Flags().StringVar(&event.Account, "account", "", "connected account (acct_...); empty for one's own")
	c.Flags().StringVar(&event.Source, "source", "", "source that it comes in on (default: each one)")
	c.Flags().BoolVar(&event.Livemode, "livemode", true, "live mode")
	c.Flags().StringVar(&event.APIVersion, "api-version", "", "API version of the event")
	c.Flags().StringSliceVar(&expect, "expect", nil, "backends that it must go to, all of them and no other")
	c.RunE = func(c *cobra.Command, args []string) error {
		event.Type = args[0]
		f, err := config.Load(*path)
		if err != nil {
			return exitError{exitUsage, err}
		}
		found, err := routes(f, event)
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(c.OutOrStdout(), found)
		} else {
			_, err = fmt.Fprint(c.OutOrStdout(), story(f, found))
		}
		if err != nil || !c.Flags().Changed("expect") {
			return err
		}
		for _, r := range found {
			if want, got := sorted(expect), sorted(r.Backends); !slices.Equal(want, got) {
				return fmt.Errorf("source %s: expected %s, goes to %s", r.Source, named(want), named(got))
			}
		}
		return nil
	}
	return c
}

// routes returns where e would go, for its source or for each.
func routes(f *config.File, e proxy.Event) ([]routed, error) {
	sources := slices.Sorted(maps.Keys(f.Proxy.Sources))
	if e.Source != "" {
		if !slices.Contains(sources, e.Source) {
			return nil, usageError("--source: no source %q; there are %s", e.Source, strings.Join(sources, ", "))
		}
		sources = []string{e.Source}
	}
	var found []routed
	for _, e.Source = range sources {
		m := f.Proxy.Routes.Match(&e)
		r := routed{
			Source: e.Source, Routes: []int{}, Backends: []string{}, Queued: []string{}, Answer: string(m.Answer), Reason: m.Reason,
		}
		for _, i := range m.Routes {
			r.Routes = append(r.Routes, i+1)
		}
		for _, t := range m.To {
			r.Backends = append(r.Backends, t.Backend)
			if t.Queued {
				r.Queued = append(r.Queued, t.Backend)
			}
		}
		if m.HoldFor > 0 {
			r.HoldFor = m.HoldFor.String()
		}
		found = append(found, r)
	}
	return found, nil
}

// story tells found to people.
func story(f *config.File, found []routed) string {
	var b strings.Builder
	for _, r := range found {
		fmt.Fprintf(&b, "source %s -> %s\n", r.Source, named(r.Backends))
		for _, n := range r.Routes {
			route := f.Proxy.Routes[n-1]
			fmt.Fprintf(&b, "  route %d: %s -> %s\n", n, matching(route), destination(route))
		}
		if len(r.Queued) > 0 {
			fmt.Fprintf(&b, "  in the background: %s\n", strings.Join(r.Queued, ", "))
		}
		fmt.Fprintf(&b, "  Stripe is answered %s\n", means(r))
	}
	return b.String()
}

// means says what Stripe's answer stands for.
func means(r routed) string {
	switch {
	case r.Answer == string(proxy.AnswerRelay) && len(r.Backends) == 0:
		return "503: a decision is asked for, and no backend is to make it"
	case r.Answer == string(proxy.AnswerRelay):
		return "with the backend's own answer; nothing is kept"
	case r.Reason == proxy.ReasonNoRoute:
		return "2xx: no route takes it; it is kept for retention.unrouted"
	case len(r.Backends) == 0:
		return "2xx: it is ignored; it is kept for retention.ignored"
	case r.Answer == string(proxy.AnswerBackend):
		return fmt.Sprintf("2xx when each backend has answered 2xx, or %s have passed since it was created", r.HoldFor)
	}
	return "2xx when it is delivered, or safely stored"
}

func named(backends []string) string {
	if len(backends) == 0 {
		return "no backend"
	}
	return strings.Join(backends, ", ")
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }
