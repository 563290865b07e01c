package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/config"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func newCheck() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration",
		Long: `Check the configuration: everything that is wrong, odd or worth knowing, each with its place. Nothing is started.
The exit code is 2 when the gateway would not take it.`,
		Example: `  breakwater check
  breakwater check --config /etc/breakwater/routes.yaml --json`,
		Args: cobra.NoArgs,
	}
	path := addConfigFlag(c)
	addJSONFlag(c, &asJSON)
	c.RunE = func(c *cobra.Command, _ []string) error {
		out := c.OutOrStdout()
		f, err := config.Load(*path)
		if asJSON {
			if err := writeJSON(out, checked(f, err == nil)); err != nil {
				return err
			}
		} else {
			for _, p := range f.Problems {
				if err != nil && p.Severity == config.Advice { // what is wrong comes first
					continue
				}
				fmt.Fprintf(out, "%s\n\n", p)
			}
			if err == nil {
				if err := summarize(out, f); err != nil {
					return err
				}
			}
		}
		if err != nil {
			return exitError{code: exitUsage}
		}
		return nil
	}
	return c
}

// checkResult is what check --json prints.
type checkResult struct {
	OK       bool            `json:"ok"`
	File     string          `json:"file"`
	Problems config.Problems `json:"problems"`
	Sources  []string        `json:"sources"`
	Backends []string        `json:"backends"`
	Routes   int             `json:"routes"`
}

func checked(f *config.File, ok bool) checkResult {
	r := checkResult{OK: ok, File: f.Path, Problems: append(config.Problems{}, f.Problems...), Sources: []string{}, Backends: []string{}}
	if ok {
		r.Sources = append(r.Sources, slices.Sorted(maps.Keys(f.Proxy.Sources))...)
		r.Backends = append(r.Backends, slices.Sorted(maps.Keys(f.Proxy.Backends))...)
		r.Routes = len(f.Proxy.Routes)
	}
	return r
}

// summarize shows what the gateway would do.
func summarize(w io.Writer, f *config.File) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SOURCE\tPATH\tSECRETS\tTOLERANCE")
	for _, name := range slices.Sorted(maps.Keys(f.Proxy.Sources)) {
		s := f.Proxy.Sources[name]
		fmt.Fprintf(t, "%s\t%s\t%d\t%v\n", name, s.Path, len(s.SigningSecrets), s.Tolerance)
	}
	fmt.Fprintln(t, "\nBACKEND\tURL\tTIMEOUT\tIN FLIGHT\tSIGNED WITH")
	for _, name := range slices.Sorted(maps.Keys(f.Proxy.Backends)) {
		b := f.Proxy.Backends[name]
		secrets := "Stripe's secrets"
		if len(b.SigningSecrets) > 0 {
			secrets = "its own secrets"
		}
		fmt.Fprintf(t, "%s\t%s\t%v\t%d\t%s\n", name, withoutQuery(b.URL), b.Timeout, b.MaxInFlight, secrets)
	}
	fmt.Fprintln(t, "\nROUTE\tEVENTS\tTO\tANSWER")
	for i, r := range f.Proxy.Routes {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\n", i+1, matching(r), destination(r), answers(r))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s can be used.\n", f.Path)
	return err
}

// withoutQuery keeps what may be a key in a URL off the screen.
func withoutQuery(url string) string {
	before, _, found := strings.Cut(url, "?")
	if found {
		return before + "?***"
	}
	return url
}

// matching says which events a route is for.
func matching(r proxy.Route) string {
	parts := []string{"all"}
	if r.Types != nil {
		parts[0] = strings.Join(r.Types, " ")
	}
	for _, c := range []struct{ name, value string }{
		{"source", r.Source}, {"account", r.Account}, {"api_version", r.APIVersion},
	} {
		if c.value != "" {
			parts = append(parts, c.name+"="+c.value)
		}
	}
	if r.Livemode != nil {
		parts = append(parts, fmt.Sprintf("livemode=%t", *r.Livemode))
	}
	return strings.Join(parts, " ")
}

func destination(r proxy.Route) string {
	to := cmp.Or(strings.Join(r.To, ", "), "(ignored)")
	if r.Queued {
		to += " (queued)"
	}
	if r.Continue {
		to += ", and on"
	}
	return to
}

func answers(r proxy.Route) string {
	return string(cmp.Or(r.Answer, proxy.AnswerAlways))
}
