package server

import (
	"context"
	"crypto/tls"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/config"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// takeChanges loads the configuration again on SIGHUP and when one of its files changed, until ctx ends.
func (s *server) takeChanges(ctx context.Context) error {
	changed := make(chan struct{})
	go func() {
		for s.watch.next(ctx) == nil {
			select {
			case changed <- struct{}{}:
			case <-ctx.Done():
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-s.Hangup:
		}
		_, _ = s.reload() // it has said in the log and the metric how it went
	}
}

// reload takes the configuration as it stands in the file now. Everything that can fail comes first, then one swap: with
// an error, all is as it was. It returns what was changed but needs a restart.
func (s *server) reload() (needsRestart []string, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	notifyReloading()
	defer notifyReady()
	defer func() {
		s.metrics.reloaded(err == nil)
		s.loaded.ended(err)
	}()

	s.watch.reading()
	file, err := config.Load(s.ConfigPath)
	if err == nil {
		err = s.apply(file)
	}
	if err != nil {
		s.Log.Error("configuration not taken, the old one stays", zap.Error(err))
		running := s.file.Load()
		s.renewCertificate(running)
		s.watch.expect(append(file.Watch, running.Watch...)) // a file that was missing may come
		return nil, err
	}
	warn(s.Log, file)
	needsRestart = changedSince(s.boot, file)
	s.Log.Info("configuration taken", zap.Int("sources", len(file.Proxy.Sources)), zap.Int("backends", len(file.Proxy.Backends)),
		zap.Int("routes", len(file.Proxy.Routes)), zap.Strings("needs_restart", needsRestart))
	return needsRestart, nil
}

func (s *server) apply(file *config.File) error {
	var pair *tls.Certificate
	if s.cert != nil && file.TLS.CertFile != "" {
		var err error
		if pair, err = loadCertificate(file.TLS.CertFile, file.TLS.KeyFile); err != nil {
			return err
		}
	}
	if err := s.gateway.Reload(s.proxyConfig(file)); err != nil {
		return err
	}
	s.quarantine.Use(quarantineConfig(file)) // after the Gateway: what is released goes through its new routes
	if pair != nil {
		s.cert.current.Store(pair)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.pause(ctx, file, s.file.Load().Proxy.Backends); err != nil {
		s.Log.Error("backends that came back are not paused, although they were", zap.Error(err))
	}
	s.metrics.expect(file.Proxy)
	s.file.Store(file)
	s.watch.expect(file.Watch)
	return nil
}

// renewCertificate takes a renewed certificate although the rest of the configuration cannot be taken: a fault in a
// route must not let TLS expire.
func (s *server) renewCertificate(file *config.File) {
	if s.cert == nil {
		return
	}
	pair, err := loadCertificate(file.TLS.CertFile, file.TLS.KeyFile)
	if err != nil {
		s.Log.Error("certificate not taken, the old one stays", zap.Error(err))
		return
	}
	s.cert.current.Store(pair)
}

// warn logs the warnings about file; hints are for those who ask (check).
func warn(log *zap.Logger, file *config.File) {
	for _, p := range file.Problems {
		if p.Severity == config.Warning {
			p.Excerpt = ""
			log.Warn("configuration", zap.Stringer("problem", p))
		}
	}
}

// changedSince names what differs from the start in a way that only a restart can take.
func changedSince(boot, now *config.File) (needsRestart []string) {
	compare := func(what string, was, is any) {
		if !reflect.DeepEqual(was, is) {
			needsRestart = append(needsRestart, what+" was changed: this needs a restart")
		}
	}
	compare("listen", boot.Listen, now.Listen)
	compare("admin", boot.Admin, now.Admin)
	compare("journal", boot.Journal, now.Journal)
	compare("journal_limits", boot.JournalLimits, now.JournalLimits)
	compare("tls (on or off)", boot.TLS.CertFile != "", now.TLS.CertFile != "")
	compare("limits.read_header", boot.Limits.ReadHeader, now.Limits.ReadHeader)
	compare("limits.connections", boot.Limits.Connections, now.Limits.Connections)
	compare("limits.header_bytes", boot.Limits.HeaderBytes, now.Limits.HeaderBytes)
	compare("limits.body_memory", boot.Limits.BodyMemory, now.Limits.BodyMemory)
	return needsRestart
}

// pause pauses each backend of file that a note says is paused, but for those in known: they have been at work since the
// start, and people have paused and resumed them since. The note of a backend that was renamed follows its name. That of one
// that file does not name stays: it may come back.
func (s *server) pause(ctx context.Context, file *config.File, known map[string]proxy.Backend) error {
	notes, err := s.journal.Notes(ctx, admin.PausedNote)
	if err != nil {
		return err
	}
	for key, since := range notes {
		was := strings.TrimPrefix(key, admin.PausedNote)
		name := nowCalled(file.Proxy.Backends, was)
		if _, ok := known[was]; ok && name == was || name == "" {
			continue
		}
		if err := s.gateway.Pause(name); err != nil {
			return err
		}
		s.Log.Warn("backend is paused: its events are kept until it is resumed", zap.String("backend", name), zap.String("since", since))
		if name == was {
			continue
		}
		err := s.journal.SetNote(ctx, admin.PausedNote+name, since)
		if err == nil {
			err = s.journal.SetNote(ctx, key, "")
		}
		if err != nil {
			s.Log.Warn("the journal notes a pause under the backend's old name: it is paused again at the next start",
				zap.String("backend", name), zap.Error(err))
		}
	}
	return nil
}

// nowCalled returns the name of the backend that had that name, or has it; "" when none has.
func nowCalled(backends map[string]proxy.Backend, was string) string {
	if _, ok := backends[was]; ok {
		return was
	}
	for name, b := range backends {
		if slices.Contains(b.Was, was) {
			return name
		}
	}
	return ""
}

// loaded is how the last reload went, and when what is at work was loaded.
type loaded struct {
	mu       sync.Mutex
	at       time.Time // when the configuration at work was taken
	failed   error     // why the file was not taken since
	failedAt time.Time
}

// ended is told how a reload went.
func (l *loaded) ended(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed, l.failedAt = err, time.Now()
		return
	}
	l.at, l.failed, l.failedAt = time.Now(), nil, time.Time{}
}

// configuration is what is at work, for people.
func (s *server) configuration() admin.Configuration {
	file := s.file.Load()
	c := admin.Configuration{Path: file.Path, Text: file.YAML(), NeedsRestart: changedSince(s.boot, file)}
	for _, p := range file.Problems {
		if p.Severity == config.Warning {
			p.Excerpt = ""
			c.Warnings = append(c.Warnings, p.String())
		}
	}
	s.loaded.mu.Lock()
	defer s.loaded.mu.Unlock()
	c.LoadedAt, c.ErrorAt = jsontime.At(s.loaded.at), jsontime.At(s.loaded.failedAt)
	if s.loaded.failed != nil {
		c.Error = s.loaded.failed.Error()
	}
	return c
}
