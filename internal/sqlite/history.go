package sqlite

import (
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// historyDelay is how long history waits for company: nobody waits for it, and a commit of many costs as much as one.
const historyDelay = 100 * time.Millisecond

// history is what Record has taken and is not committed yet, oldest first.
type history struct {
	mu      sync.Mutex
	entries []*unwritten
	bytes   int64
	byKey   map[proxy.Key][]*unwritten
	bySeq   map[int64][]*unwritten
	dropped int64
	batches int64 // how often entries went into the file
	added   int64 // entries in all
	gone    int64 // of these: written, or lost
	urgent  bool  // somebody waits for them after all
}

// unwritten is an entry that is not in the file yet.
type unwritten struct {
	*entry
	at time.Time // when it came, by this machine's clock
}

func newHistory() *history {
	return &history{byKey: map[proxy.Key][]*unwritten{}, bySeq: map[int64][]*unwritten{}}
}

// add takes an entry in, unless the buffer is full.
func (h *history) add(e *entry, entries int, bytes int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.entries) >= entries || h.bytes+e.size() > bytes && len(h.entries) > 0 {
		return proxy.ErrBusy
	}
	u := &unwritten{e, time.Now()}
	h.entries = append(h.entries, u)
	h.bytes += e.size()
	h.added++
	if e.unique {
		k := e.Event.Key()
		h.byKey[k] = append(h.byKey[k], u)
	}
	if s := e.Event.Seq; s != 0 {
		h.bySeq[s] = append(h.bySeq[s], u)
	}
	return nil
}

// head returns the oldest entries, n at most, and how long the first of them has waited. They stay until done.
func (h *history) head(n int) ([]*unwritten, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.entries) == 0 {
		return nil, 0
	}
	waited := time.Since(h.entries[0].at)
	if h.urgent {
		waited = max(waited, historyDelay)
	}
	return slices.Clone(h.entries[:min(n, len(h.entries))]), waited
}

// hurry has everything that was added so far written without delay. It returns what reached is to be asked for.
func (h *history) hurry() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.urgent = len(h.entries) > 0
	return h.added
}

// reached reports whether the first n entries are written.
func (h *history) reached(n int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone >= n
}

// written forgets the oldest entries, which ops have written or lost for good.
func (h *history) written(ops []*op, log *zap.Logger) {
	if len(ops) == 0 {
		return
	}
	var lost error
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, o := range ops {
		u := h.entries[i]
		h.bytes -= u.size()
		forget(h.byKey, u.Event.Key(), u)
		forget(h.bySeq, u.Event.Seq, u)
		if o.err != nil && !errors.Is(o.err, proxy.ErrNotFound) { // an answer to an event that is gone says nothing
			h.dropped++
			lost = o.err
		}
	}
	h.entries = slices.Delete(h.entries, 0, len(ops))
	h.gone += int64(len(ops))
	h.urgent = h.urgent && len(h.entries) > 0
	h.batches++
	if lost != nil {
		log.Error("history dropped", zap.Error(lost), zap.Int64("dropped_in_all", h.dropped))
	}
}

func forget[K comparable](m map[K][]*unwritten, k K, u *unwritten) {
	if rest := slices.DeleteFunc(slices.Clone(m[k]), func(o *unwritten) bool { return o == u }); len(rest) > 0 {
		m[k] = rest
	} else {
		delete(m, k)
	}
}

// commits changes when entries have moved into the file.
func (h *history) commits() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.batches
}

// about returns the entries about an event, by key and by number.
func (h *history) about(k proxy.Key, seq int64) []*unwritten {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := slices.Clone(h.byKey[k])
	for _, u := range h.bySeq[seq] {
		if !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out
}
