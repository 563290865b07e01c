// Package admin is what operators and their tools ask: probes, metrics, the JSON API with its client, and the web page.
//
// Who may ask: /livez, /readyz and what it takes to sign in are open, they tell nothing. Everything else needs the bearer
// token, or the session that a browser got for it, where one is set. Where none is set, the listener must be on loopback
// (package config sees to it), a request must name a loopback host, so that a web page which points its own name at
// 127.0.0.1 gets nothing, and it must not have come through a proxy, whose visitors would be anybody. A browser's request from another site that would change something is refused either way. No
// answer holds a signing secret, a token or a backend's headers. Each change leaves a row in the audit trail.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Journal is what the API asks of a database.
type Journal interface {
	journal.Reader
	journal.Jobs
	journal.Notes
	journal.Auditor
	journal.Backuper
	// Ready returns nil while new events are taken, else why not, from the first moment on.
	Ready(ctx context.Context) error
}

// Gateway is what the API needs of a proxy.Gateway.
type Gateway interface {
	Resend(ctx context.Context, k proxy.Known, backends ...string) ([]proxy.Resent, error)
	Why(source string, d proxy.Delivery, now time.Time) string
	Backends() []proxy.BackendStatus
	Pause(backend string) error
	Resume(backend string) error
}

// Options are what New needs; all but Quarantine and Log are required, and Token where the listener is not on loopback.
type Options struct {
	Journal    Journal
	Gateway    Gateway
	Sources    func() []proxy.SourceStatus
	Match      func(*proxy.Event) proxy.Match // where today's routes send an event
	Feed       *Feed                          // one of the Gateway's Observers
	Quarantine Quarantine                     // nil: there is none
	Ready      func(context.Context) error    // nil: events can be taken
	Config     func() Configuration           // what is at work
	Reload     func() ([]string, error)       // loads the configuration again; names what needs a restart
	Metrics    http.Handler
	Denied     func(reason string) // told of each request that was turned away; may be nil
	Token      proxy.Secret
	Version    string
	Log        *zap.Logger
}

// core is what the JSON API, the pages and the jobs share.
type core struct{ Options }

// api is the JSON API: a method for each operation.
type api struct {
	*core
	jobs     *jobs
	resender *resender
}

// Server serves the admin listener. Run has its jobs done.
type Server struct {
	http.Handler
	core *core
	api  *api
}

// New returns the admin listener's server.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	c := &core{o}
	a := &api{core: c, jobs: newJobs(o.Journal, o.Log)}
	a.resender = &resender{core: c, progressed: a.jobs.save, pace: rate.NewLimiter(resendRate, resendAtOnce)}
	a.jobs.kinds = map[string]func(context.Context, *task) error{kindResend: a.resender.run, kindBackup: c.backup}
	who := newAccess(c)
	mux := http.NewServeMux()
	(&pages{c, a}).register(mux)
	mux.Handle("GET /metrics", o.Metrics)
	mux.HandleFunc("POST "+loginPath, who.login)
	mux.HandleFunc("POST "+logoutPath, who.logout)
	a.register(humago.New(mux, document(o)))

	open := http.NewServeMux()
	open.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	open.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := o.Ready(r.Context()); err != nil {
			who.notReady(w, r, err)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	open.Handle("/", who.guard(problems(mux)))
	return &Server{Handler: headers(open), core: c, api: a}
}

// Run takes up the jobs that were not done when the gateway last stopped, and does new ones, until ctx ends.
func (s *Server) Run(ctx context.Context) error { return s.api.jobs.run(ctx) }

func document(o Options) huma.Config {
	config := huma.DefaultConfig("Breakwater", o.Version)
	config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", nil
	config.Info.Description = "What the gateway holds and does. Errors are problem details (RFC 9457)."
	if o.Token != "" {
		config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
			"token":   {Type: "http", Scheme: "bearer"},
			"session": {Type: "apiKey", In: "cookie", Name: sessionCookie},
		}
		config.Security = []map[string][]string{{"token": {}}, {"session": {}}}
	}
	return config
}

// fail turns an error of the journal or the gateway into an answer. What the caller cannot act on goes to the log.
func (c *core) fail(operation string, err error) error {
	if errors.Is(err, proxy.ErrNotFound) {
		return huma.Error404NotFound("no such event")
	}
	c.Log.Error("admin request failed", zap.String("operation", operation), zap.Error(err))
	return huma.Error503ServiceUnavailable(operation + ": the journal does not answer; the gateway's log says why")
}
