package journal

import (
	"context"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// Store is all that the gateway asks of a database, section by section; who needs one section takes that one. A database
// makes its own copy of what a call is given before the call returns, and never gives the same bytes to two callers. All
// methods may be called concurrently.
type Store interface {
	proxy.Journal
	Reader
	Quarantine
	Jobs
	Notes
	Auditor
	Pruner
	Backuper
	Health

	// Close writes what Record has taken, and ends the database: every other call then returns an error. A second Close
	// does nothing.
	Close() error
}

// Reader reads what is kept. Unknown events are proxy.ErrNotFound.
type Reader interface {
	// Events returns a page of the events that f chooses, newest first, without bodies and headers. It takes bounded time:
	// a page that ends early, perhaps without any event, says in LookedTo how far back it has looked. Going on from Next
	// shows each event that is there all the time exactly once.
	Events(ctx context.Context, f Filter) (Page, error)
	// Count counts all the events that f chooses, whatever its Before and Limit; ctx bounds how long it takes.
	Count(ctx context.Context, f Filter) (int64, error)
	// Event returns one event with its headers, without its body, and its attempts, those of each backend and turn in
	// order.
	Event(ctx context.Context, seq int64) (Stored, []proxy.Attempt, error)
	// Body returns the bytes that Stripe sent.
	Body(ctx context.Context, seq int64) ([]byte, error)
	// Totals counts deliveries by backend and state, from counters. Events that Failed without a delivery, because nobody
	// could read them, are counted under no backend; a database may stop counting those at 10,000.
	Totals(ctx context.Context) ([]Total, error)
}

// Quarantine keeps requests that did not verify. How many it may hold is for its caller to decide.
type Quarantine interface {
	// KeepRejected returns the request's number once it is on stable storage; proxy.ErrFull as for Append.
	KeepRejected(ctx context.Context, r proxy.Rejected) (int64, error)
	// ListRejected returns at most limit requests with a smaller number than before, newest first; 0: from the newest.
	ListRejected(ctx context.Context, before int64, limit int) ([]proxy.Rejected, error)
	// DropRejected removes requests and returns how many of them there were.
	DropRejected(ctx context.Context, ids ...int64) (int, error)
	// RejectedSize returns how many there are, how much room they take, and when the oldest was received.
	RejectedSize(ctx context.Context) (n, bytes int64, oldest time.Time, err error)
}

// Jobs keeps long work over a restart.
type Jobs interface {
	// SaveJob keeps a job's document and returns its id; id 0 is a new one. The last 100 are kept.
	SaveJob(ctx context.Context, id int64, doc []byte) (int64, error)
	// LoadJobs returns the documents of the jobs that are kept, by id.
	LoadJobs(ctx context.Context) (map[int64][]byte, error)
}

// Notes keeps small facts that outlive the process: that a backend is paused, when a secret last matched.
type Notes interface {
	// SetNote puts a note on stable storage. An empty value is no note.
	SetNote(ctx context.Context, key, value string) error
	// Notes returns the notes whose keys begin with prefix, by key.
	Notes(ctx context.Context, prefix string) (map[string]string, error)
}

// Auditor keeps the trail of changes that people made.
type Auditor interface {
	// Audit adds an entry. The last 10,000 are kept.
	Audit(ctx context.Context, e AuditEntry) error
	// AuditTrail returns the newest entries, newest first.
	AuditTrail(ctx context.Context, limit int) ([]AuditEntry, error)
}

// Pruner forgets what retention no longer keeps.
type Pruner interface {
	// Prune deletes up to n events whose retention is over at now, oldest first, and returns how many; with 0 there is
	// nothing to do for now. A Pending event is never deleted. Find knows the ids of Delivered ones for 31 days more.
	Prune(ctx context.Context, now time.Time, keep Retention, n int) (int, error)
}

// Backuper copies a database while it is at work.
type Backuper interface {
	// Backup copies it, as it is at one moment, to a file that must not be there yet and that only its owner can read.
	// progress, which may be nil, is told of bytes now and then. A database that has tools of its own for that, or
	// nothing to copy to, returns errors.ErrUnsupported.
	Backup(ctx context.Context, path string, progress func(done, total int64)) error
}

// Health says how the database does.
type Health interface {
	// Ready returns nil while new events are taken, else an *Outage, from the first moment on.
	Ready(ctx context.Context) error
	// HistoryDropped counts what Record took and could not be written since the start.
	HistoryDropped() int64
}
