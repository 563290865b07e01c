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

// history is what Record has taken and is not committed yet, in order.
type history struct {
	mu      sync.Mutex
	notes   []*note
	bytes   int64
	byKey   map[proxy.Key][]*note
	bySeq   map[int64][]*note
	dropped int64
	batches int64 // how often notes went into the file
	taken   int64 // notes in all, of which gone are written or lost
	gone    int64
	urgent  bool // somebody waits for them after all
}

type note struct {
	entry *entry
	at    time.Time // when it was taken, by this machine's clock
}

func newHistory() *history {
	return &history{byKey: map[proxy.Key][]*note{}, bySeq: map[int64][]*note{}}
}

// take adds an entry, unless the buffer is full.
func (h *history) take(e *entry, entries int, bytes int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.notes) >= entries || h.bytes+e.size() > bytes && len(h.notes) > 0 {
		return proxy.ErrBusy
	}
	n := &note{entry: e, at: time.Now()}
	h.notes = append(h.notes, n)
	h.bytes += e.size()
	h.taken++
	if e.unique {
		k := e.Event.Key()
		h.byKey[k] = append(h.byKey[k], n)
	}
	if s := e.Event.Seq; s != 0 {
		h.bySeq[s] = append(h.bySeq[s], n)
	}
	return nil
}

// oldest returns up to n notes, and how long the first of them has waited. They stay until done.
func (h *history) oldest(n int) ([]*note, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.notes) == 0 {
		return nil, 0
	}
	waited := time.Since(h.notes[0].at)
	if h.urgent {
		waited = max(waited, historyDelay)
	}
	return slices.Clone(h.notes[:min(n, len(h.notes))]), waited
}

// hurry has what was taken so far written without delay, and returns what written will count when it is.
func (h *history) hurry() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.urgent = len(h.notes) > 0
	return h.taken
}

// reached reports whether the first n notes are written.
func (h *history) reached(n int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone >= n
}

// written forgets the first notes, which ops have written or lost for good.
func (h *history) written(ops []*op, log *zap.Logger) {
	if len(ops) == 0 {
		return
	}
	var lost error
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, o := range ops {
		n := h.notes[i]
		h.bytes -= n.entry.size()
		forget(h.byKey, n.entry.Event.Key(), n)
		forget(h.bySeq, n.entry.Event.Seq, n)
		if o.err != nil && !errors.Is(o.err, proxy.ErrNotFound) { // a note about an event that is gone says nothing
			h.dropped++
			lost = o.err
		}
	}
	h.notes = slices.Delete(h.notes, 0, len(ops))
	h.gone += int64(len(ops))
	h.urgent = h.urgent && len(h.notes) > 0
	h.batches++
	if lost != nil {
		log.Error("history dropped", zap.Error(lost), zap.Int64("dropped_in_all", h.dropped))
	}
}

func forget[K comparable](m map[K][]*note, k K, n *note) {
	if rest := slices.DeleteFunc(slices.Clone(m[k]), func(o *note) bool { return o == n }); len(rest) > 0 {
		m[k] = rest
	} else {
		delete(m, k)
	}
}

// commits changes when notes have moved into the file.
func (h *history) commits() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.batches
}

// about returns the notes about an event, by key and by number.
func (h *history) about(k proxy.Key, seq int64) []*note {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := slices.Clone(h.byKey[k])
	for _, n := range h.bySeq[seq] {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
