package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// sourceNote begins the key of a source's note; the source's name follows.
const sourceNote = "source/"

// sourceMemory is what a source's note keeps over a restart: who rolls a secret must know whether the old one is still of
// use.
type sourceMemory struct {
	Verified time.Time            `json:"verified,omitzero"`
	Secrets  map[string]time.Time `json:"secrets,omitempty"` // when each last matched, by its fingerprint
}

// fingerprints stand for a source's secrets, in their order, in the journal: no secret may be written there.
func (s *server) fingerprints(source string) []string {
	secrets := s.file.Load().Proxy.Sources[source].SigningSecrets
	out := make([]string, len(secrets))
	for i, secret := range secrets {
		sum := sha256.Sum256([]byte(secret))
		out[i] = hex.EncodeToString(sum[:8])
	}
	return out
}

// loadMemory reads what is remembered of the sources.
func (s *server) loadMemory(ctx context.Context) error {
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

// sources is what the sources have seen since the start or, where they have seen nothing since, before it.
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

const saveMemoryEvery = time.Minute

// saveMemory notes what the sources have seen, once a minute and when ctx ends, where it has changed.
func (s *server) saveMemory(ctx context.Context) error {
	saved := map[string]string{}
	for last := false; !last; {
		select {
		case <-ctx.Done():
			last = true
		case <-time.After(saveMemoryEvery):
		}
		for _, src := range s.sources() {
			m := sourceMemory{Verified: src.LastVerified.Truncate(time.Second), Secrets: map[string]time.Time{}}
			for k, print := range s.fingerprints(src.Name) {
				if k < len(src.Secrets) && !src.Secrets[k].LastMatched.IsZero() {
					m.Secrets[print] = src.Secrets[k].LastMatched.Truncate(time.Second)
				}
			}
			text, err := json.Marshal(m)
			if err != nil || saved[src.Name] == string(text) || src.LastVerified.IsZero() {
				continue
			}
			own, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			if err := s.journal.SetNote(own, sourceNote+src.Name, string(text)); err != nil {
				s.Log.Warn("what a source has seen was not noted", zap.Error(err))
			} else {
				saved[src.Name] = string(text)
			}
			cancel()
		}
	}
	return nil
}
