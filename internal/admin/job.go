package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
)

// Job is a piece of work that takes longer than a request.
type Job struct {
	ID        int64    `json:"id"`
	Kind      string   `json:"kind" enum:"resend,backup"`
	State     string   `json:"state" enum:"running,done,stopped,failed" doc:"One that runs goes on after a restart; only a backup does not"`
	Filter    *Filter  `json:"filter,omitempty" doc:"Of a resend by filter"`
	Backends  []string `json:"backends,omitempty" nullable:"false" doc:"Of a resend: only to these"`
	Path      string   `json:"path,omitempty" doc:"Of a backup"`
	Actor     string   `json:"actor" doc:"Who began it"`
	Total     int64    `json:"total" doc:"Events, or bytes of the copy"`
	Done      int64    `json:"done" doc:"Of total; what was skipped is in it"`
	Skipped   int64    `json:"skipped" doc:"Events that no backend takes, or that retention has removed"`
	NoBackend int64    `json:"no_backend" doc:"Of skipped: those that no backend takes; name one"`
	Error     string   `json:"error" doc:"What went wrong last, also while it runs and tries again"`
	CreatedAt Time     `json:"created_at"`
	UpdatedAt Time     `json:"updated_at"`
	EndedAt   Time     `json:"ended_at"`
}

// The states of a job.
const (
	jobRunning = "running"
	jobDone    = "done"
	jobStopped = "stopped"
	jobFailed  = "failed"
)

const (
	kindResend = "resend"
	kindBackup = "backup"
)

// jobDoc is a job as the journal keeps it.
type jobDoc struct {
	Job
	Cursor int64   `json:"cursor"`         // a resend goes on below this event; by list, after so many
	Seqs   []int64 `json:"seqs,omitempty"` // of a resend by list
}

// task is a job at work.
type task struct {
	mu   sync.Mutex
	doc  jobDoc
	stop chan struct{} // closed to stop it
}

func (t *task) update(f func(*jobDoc)) jobDoc {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.doc)
	return t.doc
}

func (t *task) snapshot() jobDoc { return t.update(func(*jobDoc) {}) }

// jobs runs jobs, each in its goroutine, and has the journal keep how far they came.
type jobs struct {
	store journal.Jobs
	log   *zap.Logger
	kinds map[string]func(context.Context, *task) error // returns nil when done; its ctx ends when it is stopped

	mu      sync.Mutex
	tasks   map[int64]*task // running
	created chan *task
}

// maxJobs bounds the jobs that run at once.
const maxJobs = 4

var (
	errManyJobs = fmt.Errorf("%d jobs run already: wait for one, or stop it", maxJobs)
	errNoJob    = errors.New("no such job")
	errEnded    = errors.New("the job has ended")
	errStopped  = errors.New("stopped")
)

func newJobs(store journal.Jobs, log *zap.Logger) *jobs {
	return &jobs{store: store, log: log, tasks: map[int64]*task{}, created: make(chan *task, maxJobs)}
}

// run takes up the jobs that ran when the gateway last stopped, and runs them and new ones until ctx ends.
func (j *jobs) run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	docs, err := j.load(ctx)
	for err != nil {
		j.log.Error("jobs were not read, trying again", zap.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Second):
		}
		docs, err = j.load(ctx)
	}
	j.mu.Lock()
	for _, doc := range docs {
		if doc.State == jobRunning && j.tasks[doc.ID] == nil {
			t := &task{doc: doc, stop: make(chan struct{})}
			j.tasks[doc.ID] = t
			work.Go(func() { j.work(ctx, t, true) })
		}
	}
	j.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-j.created:
			work.Go(func() { j.work(ctx, t, false) })
		}
	}
}

// work runs a job to its end, its stop, or the gateway's.
func (j *jobs) work(ctx context.Context, t *task, again bool) {
	own, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-t.stop:
			cancel(errStopped)
		case <-own.Done():
		}
	}()
	var err error
	if doc := t.snapshot(); again && doc.Kind == kindBackup {
		err = errors.New("the gateway was restarted meanwhile: start it again with another path")
	} else {
		err = j.kinds[doc.Kind](own, t)
	}
	doc := t.update(func(d *jobDoc) {
		switch {
		case err == nil:
			d.State = jobDone
			if d.Skipped == 0 { // else it says why
				d.Error = ""
			}
		case errors.Is(context.Cause(own), errStopped):
			d.State = jobStopped
		case ctx.Err() != nil: // the gateway stops: it goes on after the start
			return
		default:
			d.State, d.Error = jobFailed, err.Error()
		}
		d.EndedAt = jsontime.At(time.Now())
	})
	j.log.Info("job", zap.Int64("job", doc.ID), zap.String("kind", doc.Kind), zap.String("state", doc.State),
		zap.Int64("done", doc.Done), zap.Int64("total", doc.Total), unlessEmpty("error", doc.Error))
	j.save(t)
	j.mu.Lock()
	delete(j.tasks, doc.ID)
	j.mu.Unlock()
}

func unlessEmpty(key, value string) zap.Field {
	if value == "" {
		return zap.Skip()
	}
	return zap.String(key, value)
}

// save has the journal keep how far a job came. What it does not take is done again after a restart.
func (j *jobs) save(t *task) {
	doc := t.update(func(d *jobDoc) { d.UpdatedAt = jsontime.At(time.Now()) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := j.write(ctx, doc); err != nil {
		j.log.Warn("a job's progress was not saved", zap.Int64("job", doc.ID), zap.Error(err))
	}
}

func (j *jobs) write(ctx context.Context, doc jobDoc) (int64, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return 0, err
	}
	return j.store.SaveJob(ctx, doc.ID, b)
}

// start saves a new job and has it run.
func (j *jobs) start(ctx context.Context, doc jobDoc) (Job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.tasks) >= maxJobs {
		return Job{}, errManyJobs
	}
	doc.State, doc.UpdatedAt = jobRunning, doc.CreatedAt
	id, err := j.write(ctx, doc)
	if err != nil {
		return Job{}, err
	}
	doc.ID = id
	t := &task{doc: doc, stop: make(chan struct{})}
	j.tasks[id] = t
	j.created <- t // has room for maxJobs
	return doc.Job, nil
}

// list returns the jobs that the journal keeps, those that run as they are now, newest first.
func (j *jobs) list(ctx context.Context) ([]Job, error) {
	docs, err := j.load(ctx)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	for id, t := range j.tasks {
		docs[id] = t.snapshot()
	}
	j.mu.Unlock()
	list := make([]Job, 0, len(docs))
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(docs))) {
		list = append(list, docs[id].Job)
	}
	return list, nil
}

func (j *jobs) load(ctx context.Context) (map[int64]jobDoc, error) {
	stored, err := j.store.LoadJobs(ctx)
	if err != nil {
		return nil, err
	}
	docs := make(map[int64]jobDoc, len(stored))
	for id, b := range stored {
		var doc jobDoc
		if err := json.Unmarshal(b, &doc); err != nil {
			j.log.Error("a job cannot be read", zap.Int64("job", id), zap.Error(err))
			continue
		}
		doc.ID = id
		docs[id] = doc
	}
	return docs, nil
}

// find returns a job as it is now.
func (j *jobs) find(ctx context.Context, id int64) (Job, error) {
	list, err := j.list(ctx)
	if err != nil {
		return Job{}, err
	}
	for _, job := range list {
		if job.ID == id {
			return job, nil
		}
	}
	return Job{}, errNoJob
}

// halt has a job stop after the step that it is at.
func (j *jobs) halt(ctx context.Context, id int64) (Job, error) {
	j.mu.Lock()
	t := j.tasks[id]
	if t != nil {
		select {
		case <-t.stop:
		default:
			close(t.stop)
		}
		t.update(func(d *jobDoc) { d.State = jobStopped })
	}
	j.mu.Unlock()
	job, err := j.find(ctx, id)
	if err == nil && t == nil {
		err = errEnded
	}
	return job, err
}

func (a *api) startJob(ctx context.Context, doc jobDoc) (Job, error) {
	job, err := a.jobs.start(ctx, doc)
	if errors.Is(err, errManyJobs) {
		return Job{}, huma.Error409Conflict(err.Error())
	}
	if err != nil {
		return Job{}, a.fail("start the job", err)
	}
	detail := fmt.Sprintf("job %d: %d events", job.ID, job.Total)
	if job.Filter != nil {
		text, _ := json.Marshal(job.Filter)
		detail += " " + string(text)
	}
	if job.Path != "" {
		detail = fmt.Sprintf("job %d: %s", job.ID, job.Path)
	}
	a.audit(ctx, job.Kind, detail)
	return job, nil
}

// JobList is the answer to a question for the jobs.
type JobList struct {
	Jobs []Job `json:"jobs" nullable:"false" doc:"Newest first; the last 100"`
}

type jobsOutput struct{ Body JobList }

func (a *api) listJobs(ctx context.Context, _ *struct{}) (*jobsOutput, error) {
	list, err := a.jobs.list(ctx)
	if err != nil {
		return nil, a.fail("list jobs", err)
	}
	return &jobsOutput{JobList{list}}, nil
}

type jobInput struct {
	ID int64 `path:"id" minimum:"1"`
}

type jobOutput struct{ Body Job }

func (a *api) getJob(ctx context.Context, in *jobInput) (*jobOutput, error) {
	job, err := a.jobs.find(ctx, in.ID)
	if errors.Is(err, errNoJob) {
		return nil, huma.Error404NotFound(err.Error())
	}
	if err != nil {
		return nil, a.fail("read job", err)
	}
	return &jobOutput{job}, nil
}

func (a *api) stopJob(ctx context.Context, in *jobInput) (*jobOutput, error) {
	job, err := a.jobs.halt(ctx, in.ID)
	switch {
	case errors.Is(err, errNoJob):
		return nil, huma.Error404NotFound(err.Error())
	case errors.Is(err, errEnded):
		return nil, huma.Error409Conflict("the job has ended: it is " + job.State)
	case err != nil:
		return nil, a.fail("stop job", err)
	}
	a.audit(ctx, "stop job", fmt.Sprintf("job %d (%s)", job.ID, job.Kind))
	return &jobOutput{job}, nil
}
