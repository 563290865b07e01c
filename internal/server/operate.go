package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/config"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// observers are told what happens: metrics count all of it, the feed tells who looks.
type observers struct {
	*metrics
	feed *admin.Feed
}

// Answered implements proxy.Observer.
func (o observers) Answered(source string, ev *proxy.Event, r proxy.Result, took time.Duration) {
	o.metrics.Answered(source, ev, r, took)
	o.feed.Answered(source, ev, r, took)
}

// Attempted implements proxy.Observer.
func (o observers) Attempted(ev *proxy.Event, backend string, a proxy.Attempt) {
	o.metrics.Attempted(ev, backend, a)
	o.feed.Attempted(ev, backend, a)
}

func (s *server) newAdmin() *admin.Server {
	return admin.New(admin.Options{
		Journal: s.journal, Gateway: s.gateway, Sources: s.sources, Feed: s.feed, Ready: s.ready, Config: s.configuration,
		Quarantine: s.quarantine,
		Match:      func(ev *proxy.Event) proxy.Match { return s.file.Load().Proxy.Routes.Match(ev) },
		Reload:     s.reload, Metrics: s.metrics.handler(), Token: s.boot.Admin.Token, Version: s.Version, Log: s.Log,
	})
}

// loaded is how the last reloads went.
type loaded struct {
	mu       sync.Mutex
	at       time.Time // when the configuration at work was taken
	failed   error     // why the file was not taken since
	failedAt time.Time
}

func (l *loaded) note(err error) {
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
	c := admin.Configuration{Path: file.Path, Text: file.YAML(), NeedsRestart: needRestart(s.boot, file)}
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

// pause pauses the backends that were paused when the gateway last stopped, but for those in known, which have been
// paused and resumed since. A note of a backend that routes.yaml does not have stays: it may come back.
func (s *server) pause(ctx context.Context, known map[string]proxy.Backend) error {
	notes, err := s.journal.Notes(ctx, admin.PausedNote)
	if err != nil {
		return err
	}
	for key, since := range notes {
		name := strings.TrimPrefix(key, admin.PausedNote)
		if _, ok := known[name]; ok {
			continue
		}
		err := s.gateway.Pause(name)
		switch {
		case errors.Is(err, proxy.ErrNoBackend):
		case err != nil:
			return err
		default:
			s.Log.Warn("backend is paused: its events are kept until it is resumed", zap.String("backend", name), zap.String("since", since))
		}
	}
	return nil
}

// sourceNote begins the key of what is remembered of a source; its name follows.
const sourceNote = "source/"

// sourceMemory is what is remembered of a source over a restart.
type sourceMemory struct {
	Verified time.Time            `json:"verified,omitzero"`
	Secrets  map[string]time.Time `json:"secrets,omitempty"` // when each last matched, by its fingerprint
}

// fingerprints tell a source's secrets apart in the journal, where nothing of a secret is to be.
func (s *server) fingerprints(source string) []string {
	secrets := s.file.Load().Proxy.Sources[source].SigningSecrets
	out := make([]string, len(secrets))
	for i, secret := range secrets {
		sum := sha256.Sum256([]byte(secret))
		out[i] = hex.EncodeToString(sum[:8])
	}
	return out
}

// remember reads what is remembered of the sources.
func (s *server) remember(ctx context.Context) error {
	notes, err := s.journal.Notes(ctx, sourceNote)
	if err != nil {
		return err
	}
	s.memory = map[string]sourceMemory{}
	for key, text := range notes {
		var m sourceMemory
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			s.Log.Warn("what is remembered of a source cannot be read", zap.String("note", key), zap.Error(err))
			continue
		}
		s.memory[strings.TrimPrefix(key, sourceNote)] = m
	}
	return nil
}

// sources is what the sources have seen, since the start and before. memory is as it was at the start.
func (s *server) sources() []proxy.SourceStatus {
	list := s.gateway.Sources()
	for i := range list {
		m := s.memory[list[i].Name]
		if list[i].LastVerified.IsZero() {
			list[i].LastVerified = m.Verified
		}
		prints := s.fingerprints(list[i].Name)
		for k := range list[i].Secrets[:min(len(prints), len(list[i].Secrets))] {
			if secret := &list[i].Secrets[k]; secret.LastMatched.IsZero() {
				secret.LastMatched = m.Secrets[prints[k]]
			}
		}
	}
	return list
}

const memorizeEvery = time.Minute

// memorize notes what the sources have seen, now and then, and when ctx ends.
func (s *server) memorize(ctx context.Context) error {
	noted := map[string]string{}
	for last := false; !last; {
		select {
		case <-ctx.Done():
			last = true
		case <-time.After(memorizeEvery):
		}
		for _, src := range s.sources() {
			m := sourceMemory{Verified: src.LastVerified.Truncate(time.Second), Secrets: map[string]time.Time{}}
			for k, print := range s.fingerprints(src.Name) {
				if k < len(src.Secrets) && !src.Secrets[k].LastMatched.IsZero() {
					m.Secrets[print] = src.Secrets[k].LastMatched.Truncate(time.Second)
				}
			}
			text, err := json.Marshal(m)
			if err != nil || noted[src.Name] == string(text) || src.LastVerified.IsZero() {
				continue
			}
			own, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			if err := s.journal.SetNote(own, sourceNote+src.Name, string(text)); err != nil {
				s.Log.Warn("what a source has seen was not noted", zap.Error(err))
			} else {
				noted[src.Name] = string(text)
			}
			cancel()
		}
	}
	return nil
}
