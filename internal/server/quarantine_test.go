package server

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/breakwater-gateway/breakwater/internal/quarantine"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// The whole story of a secret that was rolled at Stripe and not here.
func TestQuarantineOfARolledSecret(t *testing.T) {
	t.Parallel()
	const rolled = "whsec_the_new_one_at_stripe"
	b, dir := newBackend(t), t.TempDir()
	path := filepath.Join(dir, "routes.yaml")
	write(t, path, configuration(b.URL, "stripe_ips: [127.0.0.1/32]"))
	g := start(t, dir)

	ev, status, answer := g.send(t, http.DefaultClient, rolled)
	if status != 200 || answer != `{"status":"quarantined"}` {
		t.Fatalf("Stripe got %d %s", status, answer)
	}
	for _, line := range []string{
		`breakwater_events_total{result="quarantined",source="main"} 1`,
		`breakwater_signature_failures_total{reason="no_match",source="main"} 1`,
		`breakwater_quarantine_items 1`,
	} {
		eventually(t, "metrics: "+line, func() bool { // counted after the answer
			_, figures := g.get(t, "/metrics")
			return strings.Contains(figures, line+"\n")
		})
	}
	g.stop()
	if err := g.wait(t); err != nil {
		t.Fatal(err)
	}

	g = start(t, dir)
	if _, figures := g.get(t, "/metrics"); !strings.Contains(figures, "breakwater_quarantine_items 1\n") {
		t.Fatal("it did not survive the restart")
	}
	if status, list := g.get(t, "/api/v1/quarantine"); status != 200 || !strings.Contains(list, ev.ID) ||
		!strings.Contains(list, "no secret matches: was it rolled?") || !strings.Contains(list, `"client":"127.0.0.1"`) {
		t.Errorf("quarantine: %d %s", status, list)
	}
	if _, list := g.get(t, "/api/v1/events"); strings.Contains(list, ev.ID) || len(b.got()) > 0 {
		t.Errorf("what does not verify is an event: %s, delivered %q", list, b.got())
	}

	write(t, path, strings.Replace(configuration(b.URL, "stripe_ips: [127.0.0.1/32]"), secret, secret+", "+rolled, 1))
	if status, answer := call(t, http.MethodPost, g.Admin+"/api/v1/reload"); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	eventually(t, "it is delivered", func() bool { return len(b.got()) > 0 })
	eventually(t, "the quarantine is empty", func() bool {
		_, figures := g.get(t, "/metrics")
		return strings.Contains(figures, "breakwater_quarantine_items 0\n") &&
			strings.Contains(figures, "breakwater_quarantine_bytes 0\n") && strings.Contains(figures, "breakwater_quarantine_oldest_seconds 0\n")
	})
	if got := b.got(); len(got) != 1 || got[0] != string(ev.Body) {
		t.Errorf("the backend got %q, want %q", got, ev.Body)
	}
}

// Who is not Stripe gets the same answer as without a quarantine, whatever he says of himself.
func TestQuarantineIsForStripeOnly(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		config    string
		forwarded string
		status    int
	}{
		"no quarantine":               {"", "", 400},
		"another address":             {"stripe_ips: [192.0.2.1]", "", 400},
		"the published list":          {"stripe_ips: default", "", 400},
		"a liar":                      {"stripe_ips: default", "3.18.12.63", 400},
		"a liar with a list":          {"stripe_ips: default", "3.18.12.63, 127.0.0.1", 400},
		"a proxy that is not trusted": {"stripe_ips: default\ntrusted_proxies: [10.0.0.0/8]", "3.18.12.63", 400},
		"a liar behind a proxy":       {"stripe_ips: default\ntrusted_proxies: [127.0.0.1]", "3.18.12.63, 192.0.2.1", 400},
		"Stripe behind a proxy":       {"stripe_ips: default\ntrusted_proxies: [127.0.0.1]", "192.0.2.1, 3.18.12.63", 200},
		"Stripe":                      {"stripe_ips: [default, 127.0.0.1]", "", 200},
		"Stripe, full":                {"stripe_ips: [127.0.0.1]\nquarantine: {max_bytes: 1KiB}", "", 400},
		"Stripe, not by this header":  {"stripe_ips: [127.0.0.1]", "192.0.2.1", 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, filepath.Join(dir, "routes.yaml"), configuration("http://127.0.0.1:1", tt.config))
			g := start(t, dir)
			ev := toystripe.New("invoice.paid", toystripe.Options{})
			req, err := toystripe.Request(t.Context(), g.Webhook+"/stripe/webhook", ev, []string{"whsec_somebody_else"}, toystripe.Sending{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.forwarded != "" {
				req.Header.Set("X-Forwarded-For", tt.forwarded)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != tt.status {
				t.Errorf("answered %d, want %d", res.StatusCode, tt.status)
			}
			kept := map[int]string{200: "breakwater_quarantine_items 1\n", 400: "breakwater_quarantine_items 0\n"}[tt.status]
			if _, figures := g.get(t, "/metrics"); !strings.Contains(figures, kept) {
				t.Errorf("metrics: no %s", kept)
			}
		})
	}
}

func TestQuarantineIsTurnedOnByReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "routes.yaml")
	write(t, path, configuration("http://127.0.0.1:1", ""))
	g := start(t, dir)
	if _, status, _ := g.send(t, http.DefaultClient, "whsec_x"); status != 400 {
		t.Errorf("off: %d", status)
	}
	write(t, path, configuration("http://127.0.0.1:1", "stripe_ips: 127.0.0.1"))
	if status, answer := call(t, http.MethodPost, g.Admin+"/api/v1/reload"); status != 200 || strings.Contains(answer, "restart") {
		t.Fatalf("reload: %d %s", status, answer)
	}
	if _, status, _ := g.send(t, http.DefaultClient, "whsec_x"); status != 200 {
		t.Errorf("on: %d", status)
	}
}

func TestQuarantineMetrics(t *testing.T) {
	t.Parallel()
	stats := quarantine.Stats{Items: 3, Bytes: 4096, Oldest: time.Now().Add(-time.Hour)}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(quarantined{func() quarantine.Stats { return stats }})
	err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP breakwater_quarantine_bytes Room that they take.
# TYPE breakwater_quarantine_bytes gauge
breakwater_quarantine_bytes 4096
# HELP breakwater_quarantine_items Requests that came from Stripe and did not verify.
# TYPE breakwater_quarantine_items gauge
breakwater_quarantine_items 3
`), "breakwater_quarantine_items", "breakwater_quarantine_bytes")
	if err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 3 {
		t.Fatalf("%v, %v", families, err)
	}
	if age := families[2].GetMetric()[0].GetGauge().GetValue(); age < 3600 || age > 3660 {
		t.Errorf("oldest: %v s", age)
	}
}
