package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// BulkResend asks for many events again.
type BulkResend struct {
	Filter   *Filter  `json:"filter,omitempty" doc:"The events that were received until now and that it chooses"`
	IDs      []string `json:"ids,omitempty" maxItems:"500" nullable:"false" doc:"Instead of filter: evt_... or seq:N"`
	Backends []string `json:"backends,omitempty" maxItems:"100" nullable:"false" doc:"Only to these. Left out: the filter's backend; else those whose deliveries are in the filter's state, failed or pending; else all that each event was delivered to"`
	DryRun   bool     `json:"dry_run,omitempty" doc:"Only count"`
}

// BulkResult says how many events are meant, and which job resends them.
type BulkResult struct {
	Count     int64 `json:"count"`
	NoBackend int64 `json:"no_backend" doc:"Of a dry run: how many of them, of the newest 10,000, no backend would take; name one"`
	Job       *Job  `json:"job,omitempty" doc:"Not for a dry run"`
}

type bulkInput struct{ Body BulkResend }

type bulkOutput struct{ Body BulkResult }

// countWithin bounds the count before a bulk resend.
const countWithin = 20 * time.Second

func (a *api) bulkResend(ctx context.Context, in *bulkInput) (*bulkOutput, error) {
	doc := jobDoc{Job: Job{
		Kind: kindResend, Filter: in.Body.Filter, Backends: in.Body.Backends, Actor: actorOf(ctx),
		CreatedAt: jsontime.At(time.Now().Truncate(time.Millisecond)),
	}}
	if err := checkBackends(a.Gateway.Backends(), in.Body.Backends); err != nil {
		return nil, err
	}
	var err error
	switch {
	case (in.Body.Filter == nil) == (len(in.Body.IDs) == 0):
		return nil, huma.Error422UnprocessableEntity("give either filter or ids")
	case in.Body.Filter == nil:
		doc.Seqs, err = a.resender.numbers(ctx, in.Body.IDs)
		doc.Total = int64(len(doc.Seqs))
	case *in.Body.Filter == Filter{}:
		return nil, huma.Error422UnprocessableEntity("an empty filter would resend every event: give it a state, a type, or since")
	default:
		doc.Total, err = a.resender.count(ctx, doc)
	}
	if err != nil {
		return nil, err
	}
	out := BulkResult{Count: doc.Total}
	if in.Body.DryRun {
		out.NoBackend, err = a.resender.countStranded(ctx, doc)
		return &bulkOutput{out}, err
	}
	job, err := a.startJob(ctx, doc)
	out.Job = &job
	return &bulkOutput{out}, err
}

// resender does the work of bulk resends.
type resender struct {
	*core
	progressed func(*task)   // has a task's progress saved
	pace       *rate.Limiter // in events a second, of all of them together
}

func (r *resender) count(ctx context.Context, doc jobDoc) (int64, error) {
	own, cancel := context.WithTimeout(ctx, countWithin)
	defer cancel()
	n, err := r.Journal.Count(own, doc.meant())
	if err != nil && own.Err() != nil && ctx.Err() == nil {
		return 0, huma.Error503ServiceUnavailable(fmt.Sprintf("counting takes longer than %s: narrow the filter, with since for example", countWithin))
	}
	if err != nil {
		return 0, r.fail("count events", err)
	}
	return n, nil
}

// strandedWithin bounds the events that a dry run looks at one by one.
const strandedWithin = 10_000

// countStranded counts the events that a resend would skip, because no backend takes them.
func (r *resender) countStranded(ctx context.Context, doc jobDoc) (n int64, err error) {
	if len(doc.Backends) > 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, countWithin)
	defer cancel()
	for looked := 0; looked < strandedWithin; {
		page, next, err := r.nextPage(ctx, doc)
		if err != nil {
			return 0, r.fail("look for events without a backend", err)
		}
		for _, k := range page {
			if r.stranded(doc.wanted(k), k) {
				n++
			}
		}
		looked += max(len(page), 1)
		doc.Cursor = next
		if next == 0 || doc.Seqs != nil && next >= int64(len(doc.Seqs)) {
			break
		}
	}
	return n, nil
}

// stranded reports whether a resend of k to backends would find none, or not all of them, as Gateway.Resend decides it.
func (r *resender) stranded(backends []string, k journal.Stored) bool {
	if len(backends) == 0 {
		return len(k.Deliveries) == 0 && len(r.Match(&k.Event).To) == 0
	}
	return checkBackends(r.Gateway.Backends(), backends) != nil
}

// meant chooses the events of a resend by filter: none that came after it was asked for, so that it ends.
func (d *jobDoc) meant() journal.Filter {
	f := d.Filter.choose()
	if f.Until.IsZero() || f.Until.After(d.CreatedAt.Time) {
		f.Until = d.CreatedAt.Time
	}
	return f
}

// numbers finds the events that ids name.
func (r *resender) numbers(ctx context.Context, ids []string) ([]int64, error) {
	var seqs []int64
	for _, id := range ids {
		k, _, err := r.one(ctx, id)
		var problem *huma.ErrorModel
		if errors.As(err, &problem) {
			problem.Detail = id + ": " + problem.Detail
		}
		if err != nil {
			return nil, err
		}
		if !slices.Contains(seqs, k.Event.Seq) {
			seqs = append(seqs, k.Event.Seq)
		}
	}
	return seqs, nil
}

func backendNames(list []proxy.BackendStatus) string {
	names := make([]string, len(list))
	for i, b := range list {
		names[i] = b.Name
	}
	return strings.Join(names, ", ")
}

func checkBackends(known []proxy.BackendStatus, names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(known, func(b proxy.BackendStatus) bool {
			return b.Name == name || slices.Contains(b.Config.Was, name)
		}) {
			return huma.Error422UnprocessableEntity(fmt.Sprintf("no such backend: %q; there are %s", name, backendNames(known)))
		}
	}
	return nil
}

const (
	resendStep   = 100
	resendAtOnce = 8   // they share the journal's commits
	resendRate   = 500 // events a second that all bulk resends together ask the journal for; max_in_flight and rate bound their delivery
)

// run does a resend's work. It goes on where doc.Cursor says, and what it has done before a crash it does not do
// again: an event whose turn began after the job did is left alone.
func (r *resender) run(ctx context.Context, t *task) error {
	for wait := time.Second; ; {
		more, err := r.resendPage(ctx, t)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			wait = time.Second
			r.progressed(t)
			if !more {
				return nil
			}
			continue
		}
		_ = r.fail("resend events", err)
		t.update(func(d *jobDoc) { d.Error = "the journal does not answer; trying again" })
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// resendPage resends one page of events, and reports whether there are more.
func (r *resender) resendPage(ctx context.Context, t *task) (more bool, err error) {
	doc := t.snapshot()
	page, next, err := r.nextPage(ctx, doc)
	if err != nil {
		return false, err
	}
	var skipped []string
	var stranded int64
	work, own := errgroup.WithContext(ctx)
	work.SetLimit(resendAtOnce)
	for _, k := range page {
		work.Go(func() error {
			if err := r.pace.Wait(own); err != nil {
				return err
			}
			why, err := r.resendEvent(own, doc, k)
			if why != nil {
				t.update(func(*jobDoc) {
					skipped = append(skipped, why.Error())
					if errors.Is(why, proxy.ErrNoBackend) {
						stranded++
					}
				})
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return false, err
	}
	t.update(func(d *jobDoc) {
		d.Cursor = next
		d.Done += int64(len(page))
		d.Skipped += int64(len(skipped))
		d.NoBackend += stranded
		d.Error = ""
		if d.NoBackend > 0 {
			d.Error = fmt.Sprintf("%d have no backend: name one (--backend)", d.NoBackend)
		} else if len(skipped) > 0 {
			d.Error = skipped[len(skipped)-1]
		}
		if d.Seqs != nil {
			d.Done = next // those that are gone count too
		}
	})
	if doc.Seqs != nil {
		return next < int64(len(doc.Seqs)), nil
	}
	return next > 0, nil
}

// nextPage reads the events that come next.
func (r *resender) nextPage(ctx context.Context, doc jobDoc) (page []journal.Stored, next int64, err error) {
	if doc.Seqs == nil {
		f := doc.meant()
		f.Before, f.Limit = doc.Cursor, resendStep
		p, err := r.Journal.Events(ctx, f)
		return p.Events, p.Next, err
	}
	end := min(doc.Cursor+resendStep, int64(len(doc.Seqs)))
	for _, seq := range doc.Seqs[doc.Cursor:end] {
		k, _, err := r.Journal.Event(ctx, seq)
		if err != nil && !errors.Is(err, proxy.ErrNotFound) { // retention has ended
			return nil, 0, err
		}
		if err == nil {
			page = append(page, k)
		}
	}
	return page, end, nil
}

// resendEvent resends an event, or says why it was skipped.
func (r *resender) resendEvent(ctx context.Context, doc jobDoc, k journal.Stored) (skipped, err error) {
	backends := doc.wanted(k)
	if len(backends) == 0 && len(k.Deliveries)+len(doc.Backends) > 0 { // they are all on their way
		return nil, nil
	}
	_, err = r.Gateway.Resend(ctx, k.Known, backends...)
	if errors.Is(err, proxy.ErrNoBackend) || errors.Is(err, proxy.ErrNotFound) {
		return err, nil
	}
	return nil, err
}

// wanted returns the backends that an event still is to be resent to.
func (d *jobDoc) wanted(k journal.Stored) []string {
	names := slices.Clone(d.Backends)
	if len(names) == 0 && d.Filter != nil && d.Filter.Backend != "" {
		names = []string{d.Filter.Backend}
	}
	if len(names) == 0 {
		for _, x := range k.Deliveries {
			state := proxy.State("")
			if d.Filter != nil {
				state = proxy.State(d.Filter.State)
			}
			if x.State == state || state != proxy.Failed && state != proxy.Pending {
				names = append(names, x.Backend)
			}
		}
	}
	return slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(k.Deliveries, func(x proxy.Delivery) bool {
			return x.Backend == name && x.Turn > 1 && !x.TurnStarted.Before(d.CreatedAt.Time)
		})
	})
}
