package sqlite

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestNotesOutliveTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j.db")
	d := openAt(t, path, Options{Reserve: -1})
	for k, v := range map[string]string{"paused/a": "1", "paused/b_%": "2", "source/main": "x", "pausex": "no"} {
		if err := d.SetNote(t.Context(), k, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SetNote(t.Context(), "paused/a", "3"); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, path, Options{Reserve: -1})
	got, err := d.Notes(t.Context(), "paused/")
	if want := map[string]string{"paused/a": "3", "paused/b_%": "2"}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("notes = %v, %v; want %v", got, err, want)
	}
	if err := d.SetNote(t.Context(), "paused/a", ""); err != nil {
		t.Fatal(err)
	}
	if got, _ := d.Notes(t.Context(), "paused/a"); len(got) != 0 {
		t.Errorf("an emptied note is still there: %v", got)
	}
}

func TestJobsKeepTheLastHundred(t *testing.T) {
	t.Parallel()
	d := openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{Reserve: -1})
	var last int64
	for n := range keptJobs + 5 {
		id, err := d.SaveJob(t.Context(), 0, fmt.Appendf(nil, "%d", n))
		if err != nil || id <= last {
			t.Fatalf("job %d: id %d after %d, %v", n, id, last, err)
		}
		last = id
	}
	if id, err := d.SaveJob(t.Context(), last, []byte("changed")); id != last || err != nil {
		t.Fatalf("save again: %d, %v; want %d", id, err, last)
	}
	jobs, err := d.LoadJobs(t.Context())
	if err != nil || len(jobs) != keptJobs || string(jobs[last]) != "changed" {
		t.Errorf("%d jobs, the last is %q, %v; want %d, changed", len(jobs), jobs[last], err, keptJobs)
	}
}

func TestAuditTrailIsNewestFirst(t *testing.T) {
	t.Parallel()
	d := openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{Reserve: -1})
	at := time.UnixMilli(1_700_000_000_000).UTC()
	for _, action := range []string{"pause", "resend", "resume"} {
		if err := d.Audit(t.Context(), journal.AuditEntry{At: at, Actor: "token", Action: action, Detail: "legacy"}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := d.AuditTrail(t.Context(), 2)
	want := []journal.AuditEntry{{At: at, Actor: "token", Action: "resume", Detail: "legacy"}, {At: at, Actor: "token", Action: "resend", Detail: "legacy"}}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("trail: %v, %v; want %v", got, err, want)
	}
}

func TestRejectedComeBackByteForByte(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j.db")
	d := openAt(t, path, Options{Reserve: -1})
	at := time.UnixMilli(1_700_000_000_000).UTC()
	want := []proxy.Rejected{
		{
			Source: "main", Received: at.Add(time.Second), Client: netip.MustParseAddr("2001:db8::1"), Reason: "too_old", Query: "a=%zz",
			Header: http.Header{"Stripe-Signature": {"t=1,v1=00"}}, Body: []byte("\x00\xff{"),
		},
		{Source: "main", Received: at, Client: netip.MustParseAddr("192.0.2.1"), Reason: "no_match", Forwarded: http.Header{"X-Forwarded-For": {"192.0.2.1"}}, Body: []byte("{}")},
	}
	for i := len(want) - 1; i >= 0; i-- {
		id, err := d.KeepRejected(t.Context(), want[i])
		if err != nil {
			t.Fatal(err)
		}
		want[i].ID = id
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, path, Options{Reserve: -1})
	got, err := d.ListRejected(t.Context(), 0, 10)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
		t.Fatalf("rejected requests (-want +got):\n%s%v", diff, err)
	}
	if got, _ := d.ListRejected(t.Context(), want[0].ID, 10); len(got) != 1 || got[0].ID != want[1].ID {
		t.Errorf("before %d: %v", want[0].ID, got)
	}
	if n, size, oldest, err := d.RejectedSize(t.Context()); n != 2 || size < 5 || !oldest.Equal(at) || err != nil {
		t.Errorf("size: %d requests, %d bytes, oldest %v, %v", n, size, oldest, err)
	}
	if n, err := d.DropRejected(t.Context(), want[0].ID, want[1].ID, 99); n != 2 || err != nil {
		t.Errorf("dropped %d, %v; want 2", n, err)
	}
	if n, _, oldest, _ := d.RejectedSize(t.Context()); n != 0 || !oldest.IsZero() {
		t.Errorf("%d left, oldest %v", n, oldest)
	}
}

// A backup holds everything that was acknowledged before it began, while events go on coming in.
func TestBackupWhileServing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openAt(t, filepath.Join(dir, "j.db"), Options{Reserve: -1})
	add := func(n int) {
		e := &proxy.Event{Source: "main", ID: fmt.Sprintf("evt_1b%d", n), Type: "invoice.paid", Received: time.Now(), Body: make([]byte, 4000)}
		e.Body[0] = byte(n)
		entry := proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{{Delivery: proxy.Delivery{Backend: "b", State: proxy.Pending, Turn: 1, Due: time.Now()}}}}
		if _, err := d.Append(context.Background(), entry); err != nil {
			t.Error(err)
		}
	}
	const before = 500
	for n := range before {
		add(n)
	}
	stop := make(chan struct{})
	var more sync.WaitGroup
	more.Go(func() {
		for n := before; ; n++ {
			select {
			case <-stop:
				return
			default:
				add(n)
			}
		}
	})
	file := filepath.Join(dir, "backup.db")
	err := d.Backup(t.Context(), file, nil)
	close(stop)
	more.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := os.Stat(file); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("the backup's mode: %v, %v; want 0600", s.Mode(), err)
	}
	if err := d.Backup(t.Context(), file, nil); err == nil {
		t.Error("a second backup to the same file: no error; want it refused")
	}
	copied := openAt(t, file, Options{Reserve: -1})
	for n := range before {
		k, err := copied.Find(t.Context(), proxy.Key{Source: "main", ID: fmt.Sprintf("evt_1b%d", n)})
		if err != nil {
			t.Fatalf("event %d is not in the backup: %v", n, err)
		}
		if body, err := copied.Body(t.Context(), k.Event.Seq); err != nil || len(body) != 4000 || body[0] != byte(n) {
			t.Fatalf("event %d in the backup: body of %d bytes, %v", n, len(body), err)
		}
	}
	if _, err := copied.Append(t.Context(), proxy.Entry{Event: &proxy.Event{Source: "main", ID: "evt_1new", Type: "x"}, State: proxy.Ignored}); err != nil {
		t.Errorf("the backup takes no new events: %v", err)
	}
}
