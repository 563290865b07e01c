package journaltest_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/journaltest"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	journaltest.Run(t, func(*testing.T) journal.Store { return journaltest.NewMemory() })
}

func TestMemoryFails(t *testing.T) {
	m := journaltest.NewMemory()
	broken := errors.New("disk full")
	m.Fail = func(op string) error {
		if op == "Append" {
			return broken
		}
		return nil
	}
	e := &proxy.Event{Source: "main", ID: "evt_1"}
	entry := proxy.Entry{Event: e, State: proxy.Ignored}
	if _, err := m.Append(context.Background(), entry); !errors.Is(err, broken) {
		t.Errorf("Append: %v", err)
	}
	if _, err := m.Find(context.Background(), e.Key()); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("a failed Append stored the event: %v", err)
	}
	if err := m.Record(entry); err != nil {
		t.Errorf("Record: %v", err)
	}
}
