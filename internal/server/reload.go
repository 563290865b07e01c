package server

import (
	"context"
	"crypto/tls"
	"reflect"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/config"
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
func (s *server) reload() (notes []string, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	notifyReloading()
	defer notifyReady()
	defer func() {
		s.metrics.reloaded(err == nil)
		s.loaded.note(err)
	}()

	file, err := config.Load(s.ConfigPath)
	if err == nil {
		err = s.take(file)
	}
	if err != nil {
		s.Log.Error("configuration not taken, the old one stays", zap.Error(err))
		running := s.file.Load()
		s.renewCertificate(running)
		s.watch.expect(append(file.Watch, running.Watch...)) // a file that was missing may come
		return nil, err
	}
	warn(s.Log, file)
	notes = needRestart(s.boot, file)
	s.Log.Info("configuration taken", zap.Int("sources", len(file.Proxy.Sources)), zap.Int("backends", len(file.Proxy.Backends)),
		zap.Int("routes", len(file.Proxy.Routes)), zap.Strings("needs_restart", notes))
	return notes, nil
}

func (s *server) take(file *config.File) error {
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
	if err := s.pause(ctx, s.file.Load().Proxy.Backends); err != nil {
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

// needRestart names what differs from the start in a way that only a restart can take.
func needRestart(boot, now *config.File) (notes []string) {
	note := func(what string, was, is any) {
		if !reflect.DeepEqual(was, is) {
			notes = append(notes, what+" was changed: this needs a restart")
		}
	}
	note("listen", boot.Listen, now.Listen)
	note("admin", boot.Admin, now.Admin)
	note("journal", boot.Journal, now.Journal)
	note("journal_limits", boot.JournalLimits, now.JournalLimits)
	note("tls (on or off)", boot.TLS.CertFile != "", now.TLS.CertFile != "")
	note("limits.read_header", boot.Limits.ReadHeader, now.Limits.ReadHeader)
	note("limits.connections", boot.Limits.Connections, now.Limits.Connections)
	note("limits.header_bytes", boot.Limits.HeaderBytes, now.Limits.HeaderBytes)
	note("limits.body_memory", boot.Limits.BodyMemory, now.Limits.BodyMemory)
	return notes
}
