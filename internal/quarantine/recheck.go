package quarantine

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Rejected is one request in quarantine, as people see it.
type Rejected struct {
	ID        int64         `json:"id"`
	Source    string        `json:"source"`
	Received  jsontime.Time `json:"received_at"`
	Expires   jsontime.Time `json:"expires_at" doc:"Then it is dropped"`
	Client    string        `json:"client" doc:"The address that it came from"`
	Reason    string        `json:"reason" doc:"Of the failed verification"`
	Diagnosis string        `json:"diagnosis" doc:"What is most likely wrong, by today's secrets"`
	Size      int           `json:"size" doc:"Of the body, in bytes"`
	EventID   string        `json:"event_id" doc:"As the body claims, which nobody has verified; empty when it cannot be read"`
	EventType string        `json:"event_type" doc:"As the body claims, which nobody has verified"`
}

// pageSize bounds how many bodies are in memory at once.
const pageSize = 16

// all are the kept requests with a smaller number than before, newest first.
func (q *Quarantine) all(ctx context.Context, before int64) iter.Seq2[proxy.Rejected, error] {
	return func(yield func(proxy.Rejected, error) bool) {
		for {
			page, err := q.Store.ListRejected(ctx, before, pageSize)
			if err != nil {
				yield(proxy.Rejected{}, fmt.Errorf("list quarantine: %w", err))
				return
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
				before = r.ID
			}
			if len(page) < pageSize {
				return
			}
		}
	}
}

// List returns at most limit requests (0: 50) with a smaller ID than before (0: from the newest), newest first.
func (q *Quarantine) List(ctx context.Context, before int64, limit int) ([]Rejected, error) {
	c, sources, now := q.config.Load(), q.Sources(), time.Now()
	limit = min(cmp.Or(limit, 50), 500)
	list := []Rejected{}
	for r, err := range q.all(ctx, before) {
		if err != nil {
			return nil, err
		}
		env, _ := stripe.Parse(r.Body)
		list = append(list, Rejected{
			ID: r.ID, Source: r.Source, Received: jsontime.Time{Time: r.Received}, Expires: jsontime.Time{Time: r.Received.Add(c.MaxAge)}, Client: r.Client.String(),
			Reason: r.Reason, Diagnosis: diagnose(c, statusOf(sources, r.Source), &r, now),
			Size: len(r.Body), EventID: env.ID, EventType: env.Type,
		})
		if len(list) == limit {
			break
		}
	}
	return list, nil
}

// Report is what a recheck did.
type Report struct {
	Checked  int `json:"checked"`
	Released int `json:"released" doc:"Taken as events: delivered, or on their way"`
	Left     int `json:"left"`
}

// Recheck verifies every request against today's secrets of its source, whatever its time, and releases what matches, in
// order of receipt. A request is dropped only once its event is accepted: a crash between the two releases it again, and
// what is delivered already is not delivered for it. Events that are not accepted stay; the error then says why.
// A second recheck waits for the first.
func (q *Quarantine) Recheck(ctx context.Context) (Report, error) {
	select {
	case q.rechecking <- struct{}{}:
		defer func() { <-q.rechecking }()
	case <-ctx.Done():
		return Report{}, fmt.Errorf("recheck: %w", ctx.Err())
	}
	c := q.config.Load()
	var rep Report
	var matching []int64
	for r, err := range q.all(ctx, 0) {
		if err != nil {
			return rep, err
		}
		rep.Checked++
		if c.verifies(&r) {
			matching = append(matching, r.ID)
		}
	}
	failure := q.release(ctx, matching, &rep)
	left, err := q.count(ctx)
	rep.Left = int(left)
	if rep.Checked > 0 {
		q.Log.Info("quarantine: rechecked", zap.Int("checked", rep.Checked), zap.Int("released", rep.Released),
			zap.Int("left", rep.Left), zap.NamedError("not_released", failure))
	}
	return rep, cmp.Or(failure, err)
}

// verifies reports whether a secret of today made the signature.
func (c *Config) verifies(r *proxy.Rejected) bool {
	return stripe.MatchesAny(r.Body, r.Header[signature], c.secrets(r.Source)) >= 0
}

// release has requests accepted as events, oldest first, but last those that were not accepted before; ids are newest
// first. It gives up after several failures in a row: the journal takes nothing, then.
func (q *Quarantine) release(ctx context.Context, ids []int64, rep *Report) error {
	var again []int64 // in the order of ids
	for _, id := range ids {
		if q.refused[id] {
			again = append(again, id)
		}
	}
	ids = append(again, slices.DeleteFunc(ids, func(id int64) bool { return q.refused[id] })...)
	refused := map[int64]bool{}
	for _, id := range again {
		refused[id] = true
	}
	q.refused = refused // what is not kept any more is forgotten
	var failure error
	row := 0
	for _, id := range slices.Backward(ids) {
		err := q.releaseOne(ctx, id)
		refused[id] = err != nil
		if err == nil {
			rep.Released++
			row = 0
			continue
		}
		failure = fmt.Errorf("release %d: %w", id, err)
		if row++; row == 3 || ctx.Err() != nil {
			return fmt.Errorf("%w; the rest was not tried", failure)
		}
	}
	return failure
}

func (q *Quarantine) releaseOne(ctx context.Context, id int64) error {
	found, err := q.Store.ListRejected(ctx, id+1, 1)
	if err != nil {
		return err
	}
	if len(found) == 0 || found[0].ID != id { // dropped meanwhile
		return nil
	}
	ev, _ := found[0].Event()
	if _, err := q.Accept(ctx, ev); err != nil {
		return err
	}
	q.counting.RLock()
	defer q.counting.RUnlock()
	if _, err := q.Store.DropRejected(ctx, id); err != nil {
		return err
	}
	q.giveBack(&found[0])
	return nil
}

const (
	lookEvery  = 10 * time.Minute
	retryAfter = time.Minute
	dropStep   = 100 // requests at once: live events wait for it
)

// Run rechecks what is kept at the start and when a secret changed, and drops what is too old, until ctx ends.
func (q *Quarantine) Run(ctx context.Context) error {
	q.poke() // secrets may have changed while nothing ran
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.recheck:
			if _, err := q.Recheck(ctx); err != nil && ctx.Err() == nil {
				q.Log.Error("quarantine: not everything that verifies was released, trying again", zap.Error(err))
				again = time.After(retryAfter)
			}
		case <-again:
			q.poke()
		case <-look.C:
		}
		if err := q.expire(ctx, time.Now()); err != nil && ctx.Err() == nil {
			q.Log.Error("quarantine: old requests were not dropped", zap.Error(err))
		}
	}
}

// expire drops what is too old.
func (q *Quarantine) expire(ctx context.Context, now time.Time) error {
	maxAge := q.config.Load().MaxAge
	items, err := q.count(ctx)
	oldest := q.Stats().Oldest
	if err != nil || items == 0 || now.Sub(oldest) < maxAge {
		return err
	}
	var old []int64
	for r, err := range q.all(ctx, 0) {
		if err != nil {
			return err
		}
		if now.Sub(r.Received) >= maxAge {
			old = append(old, r.ID)
		}
	}
	q.Log.Error("quarantine: dropping requests that are older than quarantine.max_age", zap.Int("items", len(old)),
		zap.Time("oldest", oldest))
	for step := range slices.Chunk(old, dropStep) {
		if _, err := q.Drop(ctx, step...); err != nil {
			return err
		}
	}
	return nil
}
