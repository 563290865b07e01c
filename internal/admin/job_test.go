package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// manyFailed returns fakes with n events that failed, and counts how often each is resent. A resend does what a journal
// does: a new turn.
func manyFailed(n int) (f *fakes, resent map[int64]int) {
	f, resent = newFakes(), map[int64]int{}
	f.events = nil
	for seq := int64(n); seq > 0; seq-- {
		f.events = append(f.events, journal.Stored{Known: proxy.Known{
			Event: proxy.Event{Seq: seq, ID: fmt.Sprintf("evt_%d", seq), Received: time.Now().Add(-time.Hour)}, State: proxy.Failed,
			Deliveries: []proxy.Delivery{{Backend: "legacy", State: proxy.Failed, Turn: 1}, {Backend: "node", State: proxy.Delivered, Turn: 1}},
		}})
	}
	f.resends = func(k proxy.Known, backends []string) error {
		if !slices.Equal(backends, []string{"legacy"}) {
			return fmt.Errorf("resent to %v, want the one that failed", backends)
		}
		resent[k.Event.Seq]++
		stored := &f.events[slices.IndexFunc(f.events, func(e journal.Stored) bool { return e.Event.Seq == k.Event.Seq })]
		stored.Deliveries = []proxy.Delivery{{Backend: "legacy", State: proxy.Pending, Turn: 2, TurnStarted: time.Now()}}
		return nil
	}
	return f, resent
}

// running runs a server's jobs until the returned function is called.
func running(t *testing.T, s *Server) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func begin(t *testing.T, s *Server, r BulkResend) *Job {
	t.Helper()
	out, err := s.api.bulkResend(t.Context(), &bulkInput{r})
	if err != nil {
		t.Fatal(err)
	}
	return out.Body.Job
}

func (s *Server) job(t *testing.T, id int64) Job {
	t.Helper()
	out, err := s.api.getJob(t.Context(), &jobInput{id})
	if err != nil {
		t.Fatal(err)
	}
	return out.Body
}

var allFailed = BulkResend{Filter: &Filter{State: "failed"}}

func TestResendByFilter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, resent := manyFailed(250)
		s := f.handler("")
		stop := running(t, s)
		defer stop()
		job := begin(t, s, allFailed)
		f.mu.Lock()
		f.events = append([]journal.Stored{{Known: proxy.Known{Event: proxy.Event{Seq: 251, Received: time.Now()}, State: proxy.Failed}}}, f.events...)
		f.mu.Unlock()
		time.Sleep(time.Minute)
		got := s.job(t, job.ID)
		if got.State != "done" || got.Total != 250 || got.Done != 250 || got.Skipped != 0 || got.Error != "" || len(resent) != 250 || resent[251] != 0 {
			t.Errorf("%+v, %d resent", got, len(resent))
		}
	})
}

// A job goes on after a restart, and no event is resent twice, although the last page was half done.
func TestResendSurvivesARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, resent := manyFailed(450)
		f.events = slices.Clone(f.events)
		all := f.events
		states := func() { // what is listed does not change by being resent: the worst case
			for i := range all {
				all[i].State = proxy.Failed
			}
		}
		first := f.handler("")
		stop := running(t, first)
		job := begin(t, first, BulkResend{Filter: &Filter{Backend: "legacy"}})
		time.Sleep(500 * time.Millisecond) // some 250 events, by the rate that bulk resends are held to
		synctest.Wait()
		crashed, _ := f.LoadJobs(t.Context())
		stop()
		f.jobs = crashed // it was kill -9: nothing was written at the end
		states()
		done := len(resent)
		if done < 100 || done > 400 {
			t.Fatalf("%d resent before the restart; that shows nothing", done)
		}
		second := f.handler("")
		if got := second.job(t, job.ID); got.State != "running" || got.Done == 0 || got.Done%100 != 0 || got.Done > int64(done) {
			t.Errorf("after the restart: %+v", got)
		}
		stop = running(t, second)
		time.Sleep(time.Minute)
		stop()
		if got := second.job(t, job.ID); got.State != "done" || got.Done != 450 {
			t.Errorf("at the end: %+v", got)
		}
		for seq, n := range resent {
			if n != 1 {
				t.Errorf("event %d was resent %d times", seq, n)
			}
		}
		if len(resent) != 450 {
			t.Errorf("%d events were resent", len(resent))
		}
	})
}

func TestStopAJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, resent := manyFailed(2000)
		s := f.handler("")
		stop := running(t, s)
		job := begin(t, s, allFailed)
		time.Sleep(time.Second)
		if _, err := s.api.stopJob(t.Context(), &jobInput{job.ID}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		got := s.job(t, job.ID)
		if got.State != "stopped" || got.EndedAt.IsZero() || len(resent) > 1000 || len(resent) == 0 {
			t.Errorf("%+v, %d resent", got, len(resent))
		}
		stop()
		before := len(resent)
		again := f.handler("")
		stop = running(t, again)
		time.Sleep(time.Minute)
		stop()
		if len(resent) != before {
			t.Error("a stopped job went on after a restart")
		}
		if !strings.Contains(f.audited(), "stop job") {
			t.Errorf("audit: %s", f.audited())
		}
	})
}

func TestResendWaitsForTheJournal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, resent := manyFailed(20)
		works := f.resends
		var away bool
		f.resends = func(k proxy.Known, b []string) error {
			if away {
				return errors.New("disk I/O error at /var/lib")
			}
			return works(k, b)
		}
		away = true
		s := f.handler("")
		stop := running(t, s)
		job := begin(t, s, allFailed)
		time.Sleep(time.Hour)
		before := time.Now()
		if stop(); time.Since(before) > 0 {
			t.Errorf("the gateway's stop waited for %s", time.Since(before))
		}
		stop = running(t, s)
		defer func() { stop() }()
		if got := s.job(t, job.ID); got.State != "running" || got.Done != 0 || !strings.Contains(got.Error, "trying again") ||
			strings.Contains(got.Error, "/var/lib") {
			t.Errorf("while the journal is away: %+v", got)
		}
		f.mu.Lock()
		away = false
		f.mu.Unlock()
		time.Sleep(time.Minute)
		if got := s.job(t, job.ID); got.State != "done" || got.Error != "" || len(resent) != 20 {
			t.Errorf("at the end: %+v, %d resent", got, len(resent))
		}
	})
}

func TestCountingTakesTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakes()
		f.slow = true
		began := time.Now()
		_, err := f.handler("").api.bulkResend(t.Context(), &bulkInput{BulkResend{Filter: &Filter{Q: "text"}, DryRun: true}})
		if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "narrow the filter") || took > 30*time.Second {
			t.Errorf("got %v after %s", err, took)
		}
	})
}

func TestResendSkipsWhatNobodyTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, _ := manyFailed(3)
		f.resends = func(proxy.Known, []string) error { return fmt.Errorf("resend evt_1: %w", proxy.ErrNoBackend) }
		s := f.handler("")
		stop := running(t, s)
		defer stop()
		job := begin(t, s, allFailed)
		time.Sleep(time.Minute)
		if got := s.job(t, job.ID); got.State != "done" || got.Done != 3 || got.Skipped != 3 || got.Error != "3 have no backend: name one (--backend)" {
			t.Errorf("%+v", got)
		}
	})
}

func TestJobsAtOnce(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.backup = func(ctx context.Context, _ string, _ func(done, total int64)) error {
		<-ctx.Done()
		return ctx.Err()
	}
	s := f.handler("")
	stop := running(t, s)
	dir := t.TempDir()
	var last error
	for range maxJobs + 1 {
		_, last = s.api.startBackup(t.Context(), &backupInput{BackupRequest{dir + "/copy.db"}})
	}
	var problem *huma.ErrorModel
	if !errors.As(last, &problem) || problem.Status != http.StatusConflict {
		t.Errorf("one too many: %v", last)
	}
	stop()
	// A backup cannot go on: its file is half a copy.
	again := f.handler("")
	stop = running(t, again)
	defer stop()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := again.job(t, 1)
		if got.State == "failed" && strings.Contains(got.Error, "restart") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a restart: %+v", got)
		}
	}
}

func TestWhereABulkResendGoes(t *testing.T) {
	t.Parallel()
	began := start
	k := journal.Stored{Known: proxy.Known{Deliveries: []proxy.Delivery{
		{Backend: "a", State: proxy.Failed, Turn: 1, TurnStarted: began.Add(-time.Hour)},
		{Backend: "b", State: proxy.Delivered, Turn: 2, TurnStarted: began.Add(-time.Minute)},
		{Backend: "c", State: proxy.Pending, Turn: 2, TurnStarted: began.Add(time.Millisecond)}, // this job did that
	}}}
	for _, tt := range []struct {
		filter   *Filter
		backends []string
		want     []string
	}{
		{&Filter{State: "failed"}, nil, []string{"a"}},
		{&Filter{State: "pending"}, nil, nil},
		{&Filter{State: "delivered"}, nil, []string{"a", "b"}},
		{&Filter{Type: "x"}, nil, []string{"a", "b"}},
		{&Filter{State: "failed", Backend: "b"}, nil, []string{"b"}},
		{&Filter{State: "failed"}, []string{"b", "c", "d"}, []string{"b", "d"}},
		{nil, nil, []string{"a", "b"}},
	} {
		doc := jobDoc{Job: Job{Filter: tt.filter, Backends: tt.backends, CreatedAt: jsontime.At(began)}}
		if diff := cmp.Diff(tt.want, doc.wanted(k)); diff != "" && len(tt.want)+len(doc.wanted(k)) > 0 {
			t.Errorf("%+v %v (-want +got):\n%s", tt.filter, tt.backends, diff)
		}
	}
}

// Listing, stopping and progress may come at any time.
func TestJobsUnderWatch(t *testing.T) {
	t.Parallel()
	f, _ := manyFailed(300)
	s := f.handler("")
	s.api.resender.pace.SetLimit(1e6)
	stop := running(t, s)
	defer stop()
	job := begin(t, s, allFailed)
	var watch sync.WaitGroup
	for range 4 {
		watch.Go(func() {
			for s.job(t, job.ID).State == "running" {
				_, _ = s.api.listJobs(t.Context(), nil)
			}
		})
	}
	watch.Wait()
	if got := s.job(t, job.ID); got.State != "done" || got.Done != 300 {
		t.Errorf("%+v", got)
	}
}
