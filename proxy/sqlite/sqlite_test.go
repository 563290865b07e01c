package sqlite_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-gateway/breakwater/proxy"
	"github.com/breakwater-gateway/breakwater/proxy/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOpen: what was appended is there when the journal is opened again.
func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.db")
	now := time.Now()
	e := &proxy.Event{Source: "main", ID: "evt_1Pgc76B7WZ01zgkWwyRHS12y", Type: "invoice.paid", Received: now, Body: []byte("{}")}
	var seq int64
	for range 2 {
		d, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := d.Append(t.Context(), proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{
			{Delivery: proxy.Delivery{Backend: "legacy", State: proxy.Pending, Turn: 1, Due: now}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if seq != 0 && n != seq {
			t.Errorf("the event has number %d, then %d", seq, n)
		}
		seq = n
		if ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 10, For: time.Minute}); err != nil || len(ls) != 1 {
			t.Errorf("leased %d, %v", len(ls), err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Append(t.Context(), proxy.Entry{Event: e, State: proxy.Ignored}); err == nil {
			t.Errorf("a closed journal took an event")
		}
	}
	d, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: "evt_2"}); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Find: %v", err)
	}
}
