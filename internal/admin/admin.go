// Package admin is what operators and their tools ask: probes, metrics and the JSON API.
//
// Who may ask: /livez and /readyz are open, they tell nothing. Everything else needs the bearer token where one is set.
// Where none is set, the listener must be on loopback (package config sees to it), and a request must name a loopback
// host, so that a web page which points its own name at 127.0.0.1 gets nothing. A browser's request from another site
// that would change something is refused either way. No answer holds a signing secret, a token or a backend's headers.
package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// Reader reads what the journal holds. Unknown events are proxy.ErrNotFound.
type Reader interface {
	// Events returns the events that f chooses, newest first. A rare filter may end a call before f.Limit is reached:
	// next is then, as always while there may be more, what to put into f.Before to go on; 0 at the end.
	Events(ctx context.Context, f proxy.Filter) (found []proxy.Known, next int64, err error)
	// Event returns one event with its attempts, oldest first. A first attempt that succeeded has no row of its own.
	Event(ctx context.Context, seq int64) (proxy.Known, []proxy.Attempt, error)
	// Lookup returns every event with Stripe's id, over all sources.
	Lookup(ctx context.Context, id string) ([]proxy.Known, error)
	// Body returns the bytes that Stripe sent.
	Body(ctx context.Context, seq int64) ([]byte, error)
}

// Gateway is what the API needs of a proxy.Gateway.
type Gateway interface {
	Resend(ctx context.Context, k proxy.Known, backends ...string) ([]proxy.Resent, error)
	Why(source string, d proxy.Delivery, now time.Time) string
}

// Options are what New needs; all but Log are required, and Token where the listener is not on loopback.
type Options struct {
	Journal Reader
	Gateway Gateway
	Ready   func(context.Context) error // nil: events can be taken
	Reload  func() ([]string, error)    // loads the configuration again; notes on what needs a restart
	Metrics http.Handler
	Token   proxy.Secret
	Version string
	Log     *zap.Logger
}

type api struct{ Options }

// New returns the handler of the admin listener.
func New(o Options) http.Handler {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	a := &api{o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.index)
	mux.Handle("GET /metrics", o.Metrics)

	config := huma.DefaultConfig("Breakwater", o.Version)
	config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", nil
	config.Info.Description = "What the gateway holds and does. Errors are problem details (RFC 9457)."
	if o.Token != "" {
		config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
		config.Security = []map[string][]string{{"token": {}}}
	}
	a.register(humago.New(mux, config))

	open := http.NewServeMux()
	open.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	open.HandleFunc("GET /readyz", a.readyz)
	open.Handle("/", a.guard(problems(mux)))
	return headers(open)
}

func (a *api) readyz(w http.ResponseWriter, r *http.Request) {
	if err := a.Ready(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (a *api) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, `Breakwater %s

/livez                            the process runs
/readyz                           events can be taken
/metrics                          for Prometheus
/openapi.json                     the API in full
/api/v1/events                    what Stripe sent, newest first; ?state=failed, ?type=invoice.*, ?q=in_...
/api/v1/events/{id}               one event with its deliveries; {id} is evt_... or seq:N
/api/v1/events/{id}/body          its body, byte for byte
POST /api/v1/events/{id}/resend   deliver it again
POST /api/v1/reload               load routes.yaml again
`, a.Version)
}
