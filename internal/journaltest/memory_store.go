package journaltest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Event implements journal.Reader.
func (m *Memory) Event(ctx context.Context, seq int64) (journal.Stored, []proxy.Attempt, error) {
	if err := m.enter(ctx, "Event"); err != nil {
		return journal.Stored{}, nil, err
	}
	defer m.mu.Unlock()
	v := m.event(&proxy.Event{Seq: seq})
	if v == nil {
		return journal.Stored{}, nil, proxy.ErrNotFound
	}
	s := v.stored()
	s.Event.Header, s.Event.Forwarded = v.Header.Clone(), v.Forwarded.Clone()
	attempts := slices.SortedFunc(slices.Values(v.attempts), func(a, b proxy.Attempt) int {
		return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Turn, b.Turn), cmp.Compare(a.N, b.N))
	})
	return s, attempts, nil
}

func (v *memEvent) stored() journal.Stored {
	return journal.Stored{Known: v.known(), Size: int64(len(v.Body))}
}

// Body implements journal.Reader.
func (m *Memory) Body(ctx context.Context, seq int64) ([]byte, error) {
	if err := m.enter(ctx, "Body"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	v := m.event(&proxy.Event{Seq: seq})
	if v == nil {
		return nil, proxy.ErrNotFound
	}
	return bytes.Clone(v.Body), nil
}

// Events implements journal.Reader.
func (m *Memory) Events(ctx context.Context, f journal.Filter) (p journal.Page, err error) {
	if err := m.enter(ctx, "Events"); err != nil {
		return p, err
	}
	defer m.mu.Unlock()
	if f.Limit <= 0 {
		f.Limit = 50
	}
	chosen := m.chosen(f)
	for _, v := range slices.Backward(chosen) {
		if f.Before > 0 && v.Seq >= f.Before {
			continue
		}
		if len(p.Events) == f.Limit {
			p.Next = p.Events[f.Limit-1].Event.Seq
			break
		}
		p.Events = append(p.Events, v.stored())
	}
	return p, nil
}

// Count implements journal.Reader.
func (m *Memory) Count(ctx context.Context, f journal.Filter) (int64, error) {
	if err := m.enter(ctx, "Count"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	return int64(len(m.chosen(f))), nil
}

// chosen are the events that f chooses, whatever its Before and Limit, oldest first.
func (m *Memory) chosen(f journal.Filter) (out []*memEvent) {
	glob := regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(cmp.Or(f.Type, "*")), `\*`, `.*`) + `$`)
	asked := m.asked(f.Query)
	for _, v := range m.events {
		k := v.known()
		state := f.State == "" || f.State == k.State
		if f.Backend != "" {
			state = slices.ContainsFunc(k.Deliveries, func(d proxy.Delivery) bool {
				return d.Backend == f.Backend && (f.State == "" || f.State == d.State)
			})
		}
		is := func(want, got string) bool { return want == "" || want == got }
		if state && glob.MatchString(v.Type) && is(f.ID, v.ID) && is(f.Source, v.Source) && is(f.Account, v.Account) &&
			is(f.Object, v.Object) && is(f.Customer, v.Customer) && !v.Received.Before(f.Since) &&
			(f.Until.IsZero() || v.Received.Before(f.Until)) && asked(v) {
			out = append(out, v)
		}
	}
	return out
}

// asked says which events Filter.Query means: those with that id, else those that name it, else those that contain it.
func (m *Memory) asked(q string) func(v *memEvent) bool {
	if q == "" {
		return func(*memEvent) bool { return true }
	}
	for _, by := range []func(v *memEvent) bool{
		func(v *memEvent) bool { return v.ID == q },
		func(v *memEvent) bool { return v.Object == q || v.Customer == q || v.Account == q },
	} {
		if slices.ContainsFunc(m.events, by) {
			return by
		}
	}
	lower := bytes.ToLower([]byte(q))
	return func(v *memEvent) bool { return bytes.Contains(bytes.ToLower(v.Body), lower) }
}

// Totals implements journal.Reader.
func (m *Memory) Totals(ctx context.Context) (out []journal.Total, err error) {
	if err := m.enter(ctx, "Totals"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	count := func(backend string, s proxy.State, received time.Time) {
		i := slices.IndexFunc(out, func(t journal.Total) bool { return t.Backend == backend && t.State == s })
		if i < 0 {
			i, out = len(out), append(out, journal.Total{Backend: backend, State: s})
			if s == proxy.Pending {
				out[i].Oldest = received
			}
		}
		out[i].Count++
	}
	for _, v := range m.events {
		if v.State == proxy.Failed {
			count("", proxy.Failed, v.Received)
		}
		for _, d := range v.deliveries {
			count(d.Backend, d.State, v.Received)
		}
	}
	return out, nil
}

// seenEvent is what is left of an event that was pruned.
type seenEvent struct {
	known  proxy.Known
	pruned time.Time
}

// Prune implements journal.Pruner.
func (m *Memory) Prune(ctx context.Context, now time.Time, keep journal.Retention, n int) (pruned int, err error) {
	if err := m.enter(ctx, "Prune"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	m.events = slices.DeleteFunc(m.events, func(v *memEvent) bool {
		if pruned == n || !v.over(now, keep) {
			return false
		}
		pruned++
		if v.Unique() {
			event := proxy.Event{Source: v.Source, ID: v.ID, Received: v.Received}
			m.seen[v.Key()] = seenEvent{proxy.Known{Event: event, State: v.known().State, Answered: v.Answered}, now}
		}
		return true
	})
	maps.DeleteFunc(m.seen, func(_ proxy.Key, s seenEvent) bool { return now.Sub(s.pruned) >= 31*24*time.Hour })
	return pruned, nil
}

// over reports whether the event's retention has ended.
func (v *memEvent) over(now time.Time, r journal.Retention) bool {
	ended := v.Received
	for _, a := range v.attempts {
		if end := a.Started.Add(a.Duration); end.After(ended) {
			ended = end
		}
	}
	keep := map[proxy.State]time.Duration{proxy.Delivered: r.Delivered, proxy.Failed: r.Failed, proxy.Ignored: r.Ignored}[v.known().State]
	if v.Reason == proxy.ReasonNoRoute {
		keep = r.Unrouted
	}
	return keep > 0 && v.pendings() == 0 && !ended.After(now.Add(-keep))
}

func (v *memEvent) pendings() (n int) {
	for _, d := range v.deliveries {
		if d.State == proxy.Pending {
			n++
		}
	}
	return n
}

// KeepRejected implements journal.Quarantine.
func (m *Memory) KeepRejected(ctx context.Context, r proxy.Rejected) (int64, error) {
	if err := m.enter(ctx, "KeepRejected"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	m.rejections++
	r = ownRejected(r)
	r.ID = m.rejections
	m.rejected = append(m.rejected, r)
	return r.ID, nil
}

func ownRejected(r proxy.Rejected) proxy.Rejected {
	r.Body, r.Header, r.Forwarded = bytes.Clone(r.Body), r.Header.Clone(), r.Forwarded.Clone()
	return r
}

// ListRejected implements journal.Quarantine.
func (m *Memory) ListRejected(ctx context.Context, before int64, limit int) (out []proxy.Rejected, err error) {
	if err := m.enter(ctx, "ListRejected"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	for _, r := range slices.Backward(m.rejected) {
		if (before <= 0 || r.ID < before) && len(out) < limit {
			out = append(out, ownRejected(r))
		}
	}
	return out, nil
}

// DropRejected implements journal.Quarantine.
func (m *Memory) DropRejected(ctx context.Context, ids ...int64) (int, error) {
	if err := m.enter(ctx, "DropRejected"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	before := len(m.rejected)
	m.rejected = slices.DeleteFunc(m.rejected, func(r proxy.Rejected) bool { return slices.Contains(ids, r.ID) })
	return before - len(m.rejected), nil
}

// RejectedSize implements journal.Quarantine.
func (m *Memory) RejectedSize(ctx context.Context) (n, size int64, oldest time.Time, err error) {
	if err := m.enter(ctx, "RejectedSize"); err != nil {
		return 0, 0, time.Time{}, err
	}
	defer m.mu.Unlock()
	for _, r := range m.rejected {
		size += int64(len(r.Body))
		if oldest.IsZero() || r.Received.Before(oldest) {
			oldest = r.Received
		}
	}
	return int64(len(m.rejected)), size, oldest, nil
}

// SaveJob implements journal.Jobs.
func (m *Memory) SaveJob(ctx context.Context, id int64, doc []byte) (int64, error) {
	if err := m.enter(ctx, "SaveJob"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if id == 0 {
		m.jobs = append(m.jobs, nil)
		id = int64(len(m.jobs))
	}
	m.jobs[id-1] = bytes.Clone(doc)
	return id, nil
}

// LoadJobs implements journal.Jobs.
func (m *Memory) LoadJobs(ctx context.Context) (map[int64][]byte, error) {
	if err := m.enter(ctx, "LoadJobs"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	out := map[int64][]byte{}
	for i := max(0, len(m.jobs)-100); i < len(m.jobs); i++ {
		out[int64(i+1)] = bytes.Clone(m.jobs[i])
	}
	return out, nil
}

// SetNote implements journal.Notes.
func (m *Memory) SetNote(ctx context.Context, key, value string) error {
	if err := m.enter(ctx, "SetNote"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.notes[key] = value; value == "" {
		delete(m.notes, key)
	}
	return nil
}

// Notes implements journal.Notes.
func (m *Memory) Notes(ctx context.Context, prefix string) (map[string]string, error) {
	if err := m.enter(ctx, "Notes"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	out := maps.Clone(m.notes)
	maps.DeleteFunc(out, func(key, _ string) bool { return !strings.HasPrefix(key, prefix) })
	return out, nil
}

// Audit implements journal.Auditor.
func (m *Memory) Audit(ctx context.Context, e journal.AuditEntry) error {
	if err := m.enter(ctx, "Audit"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.audit = append(m.audit, e)
	return nil
}

// AuditTrail implements journal.Auditor.
func (m *Memory) AuditTrail(ctx context.Context, limit int) ([]journal.AuditEntry, error) {
	if err := m.enter(ctx, "AuditTrail"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	out := slices.Clone(m.audit[max(0, len(m.audit)-min(limit, 10_000)):])
	slices.Reverse(out)
	return out, nil
}

// Backup implements journal.Backuper.
func (*Memory) Backup(context.Context, string, func(done, total int64)) error {
	return errors.ErrUnsupported
}

// Ready implements journal.Health.
func (m *Memory) Ready(ctx context.Context) error {
	if err := m.enter(ctx, "Ready"); err != nil {
		return err
	}
	m.mu.Unlock()
	return nil
}

// HistoryDropped implements journal.Health.
func (*Memory) HistoryDropped() int64 { return 0 }
