package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/journaltest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		child(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// openAt opens a journal that the test closes.
func openAt(t testing.TB, path string, o Options) *DB {
	t.Helper()
	if o.Log == nil {
		o.Log = zaptest.NewLogger(t)
	}
	if o.Reserve == 0 {
		o.Reserve = -1
	}
	d, err := Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

func openNew(t testing.TB) *DB { return openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{}) }

func TestJournal(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) journal.Store { return openNew(t) })
}
