package server

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// until keeps in memory what the database does not keep yet.
type until struct {
	database
	mu    sync.Mutex
	notes map[string]string
	jobs  map[int64][]byte
	trail []proxy.AuditEntry
}

func (u *until) Events(ctx context.Context, f proxy.Filter) (proxy.Page, error) {
	found, next, err := u.database.(interface {
		Events(context.Context, proxy.Filter) ([]proxy.Known, int64, error)
	}).Events(ctx, f)
	return proxy.Page{Events: found, Next: next}, err
}

func (u *until) Count(ctx context.Context, f proxy.Filter) (n int64, err error) {
	for {
		p, err := u.Events(ctx, f)
		n += int64(len(p.Events))
		if err != nil || p.Next == 0 {
			return n, err
		}
		f.Before = p.Next
	}
}

func (u *until) Notes(_ context.Context, prefix string) (map[string]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := map[string]string{}
	for k, v := range u.notes {
		if strings.HasPrefix(k, prefix) {
			out[k] = v
		}
	}
	return out, nil
}

func (u *until) SetNote(_ context.Context, key, value string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.notes, key)
	if value != "" {
		u.notes[key] = value
	}
	return nil
}

func (u *until) SaveJob(_ context.Context, id int64, doc []byte) (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if id == 0 {
		id = int64(len(u.jobs)) + 1
	}
	u.jobs[id] = doc
	return id, nil
}

func (u *until) LoadJobs(context.Context) (map[int64][]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := map[int64][]byte{}
	for k, v := range u.jobs {
		out[k] = v
	}
	return out, nil
}

func (u *until) Audit(_ context.Context, at time.Time, actor, action, detail string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.trail = append([]proxy.AuditEntry{{At: at, Actor: actor, Action: action, Detail: detail}}, u.trail...)
	return nil
}

func (u *until) AuditTrail(_ context.Context, limit int) ([]proxy.AuditEntry, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]proxy.AuditEntry{}, u.trail[:min(limit, len(u.trail))]...), nil
}

func (u *until) Backup(context.Context, string, func(done, total int64)) error {
	return errors.New("not yet")
}
