package quarantine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// fill keeps n events and returns their ids in order.
func (b *bench) fill(n int) (ids []string) {
	b.t.Helper()
	for range n {
		ev := toystripe.New("invoice.paid", toystripe.Options{})
		ids = append(ids, ev.ID)
		if !b.keep(request(ev.Body)) {
			b.t.Fatal("not kept")
		}
	}
	return ids
}

func (b *bench) wantReport(want Report, fails error) {
	b.t.Helper()
	got, err := b.Recheck(b.t.Context())
	if got != want || !errors.Is(err, fails) {
		b.t.Errorf("rechecked %+v, %v; want %+v, %v", got, err, want, fails)
	}
}

func TestRecheck(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.cfg.MaxBytes = 10 << 20
	ids := b.fill(2*pageSize + 5)
	forged := request(invoice())
	forged.Header[signature] = []string{stripe.Sign(invoice(), time.Now(), rolled)} // of another body
	b.keep(forged)
	orphan := request(invoice())
	orphan.Source = "connect"
	b.keep(orphan)

	b.wantReport(Report{Checked: len(ids) + 2, Left: len(ids) + 2}, nil)
	b.use(known, rolled)
	b.wantReport(Report{Checked: len(ids) + 2, Released: len(ids), Left: 2}, nil)
	if got := b.gateway.ids(); !slices.Equal(got, ids) {
		t.Errorf("released %v, want all in order of receipt", got)
	}
	b.wantReport(Report{Checked: 2, Left: 2}, nil)
}

// What is released is what came, to the byte, whatever its time.
func TestReleaseWhatCame(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ev := toystripe.New("customer.subscription.updated", toystripe.Options{Account: "acct_1"})
	old := signedWith(known, ev.Body, time.Now().Add(-40*24*time.Hour))
	old.Reason, old.Received = stripe.TooOld, time.Now().Add(-29*24*time.Hour)
	b.keep(old)
	junk := signedWith(known, []byte("{not JSON"), time.Now())
	b.keep(junk)
	b.wantReport(Report{Checked: 2, Released: 2}, nil)

	got := b.gateway.accepted
	want := proxy.Event{
		Source: "main", ID: ev.ID, Type: ev.Type, Account: "acct_1", APIVersion: got[0].APIVersion, Object: got[0].Object,
		Customer: got[0].Customer, Livemode: got[0].Livemode, Created: got[0].Created,
		Received: old.Received, Query: "a=1", Header: old.Header, Forwarded: old.Forwarded, Body: ev.Body,
	}
	if diff := cmp.Diff(want, got[0]); diff != "" || got[0].Object == "" || got[0].Created.IsZero() {
		t.Errorf("released (-want +got):\n%s", diff)
	}
	if ev := got[1]; !strings.HasPrefix(ev.ID, "sha256:") || ev.Type != "" || string(ev.Body) != "{not JSON" {
		t.Errorf("not JSON: %+v", ev)
	}
}

func TestWhatIsNotAcceptedStays(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.fill(4)
	b.gateway.fail = func(ev *proxy.Event) error {
		if ev.ID == ids[1] {
			return errDisk
		}
		return nil
	}
	b.use(rolled)
	b.wantReport(Report{Checked: 4, Released: 3, Left: 1}, errDisk)
	b.gateway.fail = nil
	b.wantReport(Report{Checked: 1, Released: 1}, nil)
	if got := b.gateway.ids(); !slices.Equal(got, []string{ids[0], ids[2], ids[3], ids[1]}) {
		t.Errorf("released %v of %v", got, ids)
	}
}

// When the journal takes nothing, it is not asked a thousand times.
func TestGivesUpAfterSeveralFailures(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill(10)
	calls := 0
	b.gateway.fail = func(*proxy.Event) error { calls++; return errDisk }
	b.use(rolled)
	b.wantReport(Report{Checked: 10, Left: 10}, errDisk)
	if calls != 3 {
		t.Errorf("%d calls, want 3", calls)
	}
}

// Requests that are refused every time, the oldest of all, must not keep the others from being released.
func TestTheRefusedDoNotBlockTheRest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.fill(10)
	b.gateway.fail = func(ev *proxy.Event) error {
		if slices.Contains(ids[:3], ev.ID) {
			return errDisk
		}
		return nil
	}
	b.use(rolled)
	b.wantReport(Report{Checked: 10, Left: 10}, errDisk)
	b.wantReport(Report{Checked: 10, Released: 7, Left: 3}, errDisk)
	if got := b.gateway.ids(); !slices.Equal(got, ids[3:]) {
		t.Errorf("released %v, want %v", got, ids[3:])
	}
}

// A request that is dropped while a recheck goes on must not have another one, which nobody has verified, accepted for it.
func TestWhatIsDroppedMeanwhileIsNotReleased(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	forged := request(invoice())
	forged.Header[signature] = []string{stripe.Sign([]byte("another body"), time.Now(), rolled)}
	b.keep(forged)
	ids := b.fill(2)
	b.gateway.fail = func(ev *proxy.Event) error {
		if ev.ID == ids[0] { // the first that is released: the second is dropped now
			if _, err := b.Drop(t.Context(), 3); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	b.use(rolled)
	if _, err := b.Recheck(t.Context()); err != nil {
		t.Error(err)
	}
	if got := b.gateway.ids(); !slices.Equal(got, ids[:1]) {
		t.Errorf("released %v, want %v", got, ids[:1])
	}
}

// A crash between accepting and dropping is a drop that never came: the event is released once more, never lost.
func TestReleasedTwiceRatherThanLost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.fill(1)
	b.store.fail["Drop"] = errDisk
	b.use(rolled)
	b.wantReport(Report{Checked: 1, Left: 1}, errDisk)
	b.store.fail["Drop"] = nil
	b.wantReport(Report{Checked: 1, Released: 1}, nil)
	if got := b.gateway.ids(); !slices.Equal(got, []string{ids[0], ids[0]}) {
		t.Errorf("accepted %v", got)
	}
}

func TestARecheckWaitsForAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.fill(1)
		b.use(rolled)
		entered, leave := make(chan struct{}), make(chan struct{})
		b.gateway.fail = func(*proxy.Event) error { close(entered); <-leave; return nil }
		done := make(chan struct{})
		go func() { b.Recheck(t.Context()); close(done) }()
		<-entered
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Recheck(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second one at the same time: %v", err)
		}
		close(leave)
		<-done
		b.wantReport(Report{}, nil)
		if len(b.gateway.ids()) != 1 {
			t.Error("released twice")
		}
	})
}

// running runs f beside Run.
func running(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- b.Run(ctx) }()
		synctest.Wait()
		f(t, b)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestRunRechecksWhenSecretsChange(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, b *bench) {
		b.fill(2)
		genuine := signedWith(known, invoice(), time.Now().Add(-time.Hour))
		genuine.Reason = stripe.TooOld
		b.keep(genuine)
		b.use(known)
		synctest.Wait()
		if got := len(b.gateway.ids()); got != 0 {
			t.Errorf("the same secrets: %d released", got)
		}
		b.use(known, rolled)
		synctest.Wait()
		if got := len(b.gateway.ids()); got != 3 {
			t.Errorf("a new secret: %d released, want all", got)
		}
	})
}

func TestRunRechecksAtTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.fill(1)
		b.use(rolled)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Run(ctx); err != nil || len(b.gateway.ids()) != 1 {
			t.Errorf("%v, released %v", err, b.gateway.ids())
		}
	})
}

// A request may be on its way into quarantine while the secret that it needs is read.
func TestASecretThatComesAtTheSameTime(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, b *bench) {
		b.use(rolled)
		synctest.Wait()
		b.fill(1)
		synctest.Wait()
		if len(b.gateway.ids()) != 1 {
			t.Error("it waits for the next reload, although its secret is known")
		}
	})
}

func TestRunTriesAgain(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, b *bench) {
		b.fill(1)
		b.gateway.fail = func(*proxy.Event) error { return errDisk }
		b.use(rolled)
		synctest.Wait()
		b.gateway.mu.Lock()
		b.gateway.fail = nil
		b.gateway.mu.Unlock()
		time.Sleep(retryAfter + time.Second)
		if len(b.gateway.ids()) != 1 {
			t.Error("a release that failed was not tried again")
		}
	})
}

func TestAge(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, b *bench) {
		const day = 24 * time.Hour
		b.fill(1)
		time.Sleep(day)
		b.fill(1)
		time.Sleep(29*day - time.Hour)
		if s := b.Stats(); s.Items != 2 {
			t.Errorf("before 30 days: %+v", s)
		}
		time.Sleep(2 * time.Hour)
		if s := b.Stats(); s.Items != 1 || b.logs.FilterMessageSnippet("dropping requests").Len() != 1 {
			t.Errorf("after 30 days: %+v, want the older one gone, and said so", s)
		}
		if s := b.Stats(); !s.Expires.Equal(s.Oldest.Add(30 * day)) {
			t.Errorf("%+v", s)
		}
		time.Sleep(day)
		if s := b.Stats(); s.Items != 0 || !s.Oldest.IsZero() || !s.Expires.IsZero() {
			t.Errorf("a day later: %+v", s)
		}
		if len(b.gateway.ids()) != 0 {
			t.Error("released")
		}
	})
}
