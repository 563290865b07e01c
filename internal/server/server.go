// Package server is the whole gateway: it opens the journal, builds the Gateway, listens, takes new configurations and
// stops in order.
package server

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/config"
	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Options are what Run needs; only ConfigPath is required.
type Options struct {
	ConfigPath string
	Version    string
	Revision   string
	Log        *zap.Logger
	Hangup     <-chan os.Signal // each value loads the configuration again
	Started    func(Started)    // called once, when connections are taken
}

// Started says where a gateway is to be found.
type Started struct {
	Webhook string // URL, without a path
	Admin   string // URL
	Journal string // path of the database
	Config  *config.File
}

// server is one running gateway.
type server struct {
	Options
	boot       *config.File // as it was at the start: what needs a restart is compared with it
	journal    journal.Store
	gateway    *proxy.Gateway
	metrics    *metrics    // one of the gateway's observers, as is
	feed       *admin.Feed // which tells those who look at a page or tail
	quarantine *quarantine.Quarantine
	admin      *admin.Server
	memory     map[string]sourceMemory // of the time before the start, by source
	loaded     loaded                  // how the last reloads went
	watch      *watcher                // of the configuration and the files that it names
	conns      *connections            // Stripe's
	cert       *certificate            // nil: HTTP

	reloading sync.Mutex                  // held by the one reload that is under way
	file      atomic.Pointer[config.File] // the configuration at work
	stopping  atomic.Bool                 // not ready any more
}

// Run runs the gateway of o.ConfigPath until ctx ends and it has stopped in order: it goes on accepting for
// shutdown_delay while /readyz says 503, then stops listening, answers those who wait, lets running attempts end for up
// to drain_timeout, writes everything down and closes the journal. It returns nil after such a stop. An error at the
// start says what to do about it.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	webhook, adminListener, err := inherit()
	if err != nil {
		return err
	}
	file, err := config.Load(o.ConfigPath)
	if err != nil {
		return err
	}
	warn(o.Log, file)
	s := &server{Options: o, boot: file, metrics: newMetrics(o.Version, o.Revision), feed: admin.NewFeed()}
	s.loaded.ended(nil)
	s.file.Store(file)
	if s.journal, err = s.open(ctx); err != nil {
		if ctx.Err() != nil { // told to stop while another gateway held the journal
			return nil
		}
		return err
	}
	return errors.Join(s.start(ctx, webhook, adminListener), s.journal.Close())
}

// start builds what stands on the journal and runs it. The journal is open before anything listens: a gateway that
// waits for another one to let go of the journal must not take its connections.
func (s *server) start(ctx context.Context, webhook, adminListener net.Listener) (err error) {
	file := s.boot
	if err := s.openQuarantine(ctx); err != nil {
		return err
	}
	if s.gateway, err = proxy.New(s.proxyConfig(file)); err != nil {
		return err
	}
	if err := errors.Join(s.pause(ctx, file, nil), s.loadMemory(ctx)); err != nil {
		return err
	}
	s.admin = s.newAdmin()
	s.metrics.expect(file.Proxy)
	s.metrics.registry.MustRegister(standing{
		backends: s.gateway.Backends, totals: s.journal.Totals, ready: s.journal.Ready,
		dropped: func() int64 { return s.metrics.dropped.Load() + s.journal.HistoryDropped() },
	}, quarantined{s.quarantine.Stats}, holding{s.admin.Conditions})
	if file.TLS.CertFile != "" {
		pair, err := loadCertificate(file.TLS.CertFile, file.TLS.KeyFile)
		if err != nil {
			return err
		}
		s.cert = new(certificate)
		s.cert.current.Store(pair)
	}
	if webhook, err = listen(ctx, webhook, "listen", file.Listen); err != nil {
		return err
	}
	defer webhook.Close()
	if adminListener, err = listen(ctx, adminListener, "admin.listen", file.Admin.Listen); err != nil {
		return err
	}
	defer adminListener.Close()
	if err := guarded(adminListener.Addr(), file.Admin.Token); err != nil {
		return err
	}
	s.watch = newWatcher(s.Log)
	defer s.watch.close()
	s.watch.expect(file.Watch)
	return s.run(ctx, webhook, adminListener)
}

// run serves until ctx ends, or a part of the gateway fails, and stops in order.
func (s *server) run(ctx context.Context, webhook, adminListener net.Listener) error {
	s.conns = newConnections(s.roomFor(s.boot.Limits.Connections))
	operators := newConnections(adminConnections)
	webhook, adminListener = bounded{webhook, s.conns}, bounded{adminListener, operators}
	public, private := s.publicServer(), s.adminServer(operators)
	g, failed := errgroup.WithContext(context.WithoutCancel(ctx))
	delivering, stopDelivering := context.WithCancel(failed)
	defer stopDelivering()
	background, stopBackground := context.WithCancel(failed)
	defer stopBackground()

	accepted, delivered := make(chan struct{}), make(chan struct{})
	g.Go(func() error {
		defer close(accepted)
		return closed(s.serve(public, webhook))
	})
	g.Go(func() error {
		defer close(delivered)
		return s.gateway.Run(delivering)
	})
	g.Go(func() error { return closed(private.Serve(adminListener)) })
	g.Go(func() error { return s.takeChanges(background) })
	g.Go(func() error { return s.prune(background) })
	g.Go(func() error { return s.quarantine.Run(background) })
	g.Go(func() error { return s.saveMemory(background) })
	g.Go(func() error { return s.admin.Run(background) })
	g.Go(func() error { return watchdog(background, func() { s.gateway.Backends() }) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-failed.Done():
		}
		s.beginStop(failed)
		_ = webhook.Close()
		<-accepted
		stopDelivering() // those who wait for a backend are answered, as at inline_timeout
		s.finish(delivered)
		_ = public.Close()
		stopBackground()
		_ = private.Close() // last: until here it says how the stop goes
		return nil
	})

	notifyReady()
	if s.Started != nil {
		s.Started(Started{
			Webhook: url(webhook, s.cert != nil), Admin: url(adminListener, false), Journal: s.boot.Journal.Path, Config: s.boot,
		})
	}
	err := g.Wait()
	s.Log.Info("stopped", zap.Error(err))
	return err
}

// beginStop says that we stop, to those who ask and in every answer, and goes on accepting for shutdown_delay.
func (s *server) beginStop(failed context.Context) {
	file := s.file.Load()
	s.stopping.Store(true)
	notifyStopping()
	s.Log.Info("stopping", zap.Duration("shutdown_delay", file.ShutdownDelay), zap.Duration("drain_timeout", file.Proxy.DrainTimeout))
	select {
	case <-time.After(file.ShutdownDelay):
	case <-failed.Done():
	}
}

// finish waits until the requests that were accepted are answered and the attempts that were sent have ended.
func (s *server) finish(delivered <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), s.file.Load().Proxy.DrainTimeout+drainExtra)
	defer cancel()
	if err := s.conns.wait(ctx); err != nil {
		s.Log.Warn("requests were cut: they took longer than drain_timeout; Stripe sends them again", zap.Error(err))
	}
	select {
	case <-delivered:
	case <-ctx.Done():
		s.Log.Warn("deliveries have not ended within drain_timeout: the journal does not answer")
	}
}

// drainExtra is what it takes to write down the attempts that drain_timeout cut.
const drainExtra = 3 * time.Second

// closed drops the error of a server whose listener we closed.
func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *server) proxyConfig(file *config.File) proxy.Config {
	c := file.Proxy
	c.Journal, c.Log, c.Observers = s.journal, s.Log, []proxy.Observer{s.metrics, s.feed}
	c.Quarantine = s.quarantine
	return c
}

func (s *server) newAdmin() *admin.Server {
	return admin.New(admin.Options{
		Journal: s.journal, Gateway: s.gateway, Sources: s.sources, Feed: s.feed, Ready: s.ready, Config: s.configuration,
		Quarantine: s.quarantine,
		Match:      func(ev *proxy.Event) proxy.Match { return s.file.Load().Proxy.Routes.Match(ev) },
		Reload:     s.reload, Metrics: s.metrics.handler(), Denied: s.metrics.adminDenied, Token: s.boot.Admin.Token, Version: s.Version, Log: s.Log,
	})
}

// publicServer is what Stripe talks to. It has no timeout for whole requests: the Gateway bounds the body's arrival and
// its own answer.
func (s *server) publicServer() *http.Server {
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.stopping.Load() {
				w.Header().Set("Connection", "close") // the next request finds who comes after us
			}
			a := answer{ResponseWriter: w, status: http.StatusOK}
			s.gateway.ServeHTTP(&a, r)
			if a.status/100 == 2 { // nobody else gets one
				s.conns.verified(r.Context())
			}
		}),
		ConnState:         s.conns.changed,
		ConnContext:       s.conns.context,
		ReadHeaderTimeout: s.boot.Limits.ReadHeader,
		MaxHeaderBytes:    int(s.boot.Limits.HeaderBytes),
		Protocols:         new(http.Protocols), // HTTP/1.1 as Stripe: HTTP/2 carries 250 requests on what we count as one connection
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          log.New(serverLog{s.Log}, "", 0),
	}
	srv.Protocols.SetHTTP1(true)
	if s.cert != nil {
		srv.TLSConfig = s.cert.config()
	}
	return srv
}

func (s *server) serve(srv *http.Server, l net.Listener) error {
	if s.cert != nil {
		return srv.ServeTLS(l, "", "")
	}
	return srv.Serve(l)
}

// answer remembers the status of what is written through it.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (s *server) adminServer(conns *connections) *http.Server {
	return &http.Server{
		Handler:           s.admin,
		ConnState:         conns.changed,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
}

// serverLog takes what net/http says. Failed TLS handshakes are everyday life on the open internet.
type serverLog struct{ log *zap.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.HasPrefix(text, "http: TLS handshake error") {
		l.log.Debug(text)
	} else {
		l.log.Error(text)
	}
	return len(line), nil
}

var errStopping = errors.New("stopping")

// ready says whether events can be taken. A failing backend is no reason against it: keeping its events is the job.
func (s *server) ready(ctx context.Context) error {
	if s.stopping.Load() {
		return errStopping
	}
	err := s.journal.Ready(ctx)
	var outage *journal.Outage
	if errors.As(err, &outage) && time.Since(outage.Since) < patience {
		return nil
	}
	return err
}

// patience is how long the journal may refuse before we say that we are not ready: longer than it takes to open it again.
const patience = 30 * time.Second

// url is how a client on this machine reaches l.
func url(l net.Listener, secure bool) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return scheme + "://" + l.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}
