package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/admin"
)

// readResult is what the readers saw.
type readResult struct {
	Took   map[string][]float64 `json:"took"`   // by page, milliseconds until all of it was there
	Faults map[string]int       `json:"faults"` // what was no answer 200
}

// reader asks for pages as several people do at once, each for one after the other.
type reader struct {
	base   string
	events int64 // that were filled in
	pause  time.Duration
	client *http.Client
	marks  []mark

	mu     sync.Mutex
	result readResult
}

// readRole reads pages until it is interrupted, and prints a readResult.
func readRole(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("read", flag.ExitOnError)
	addr := f.String("admin", "", "host:port")
	people := f.Int("people", 1, "")
	warmUp := f.Duration("warm-up", time.Second, "")
	r := &reader{client: &http.Client{Timeout: answerLimit, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	f.Int64Var(&r.events, "events", 0, "")
	f.DurationVar(&r.pause, "pause", 0, "after each page")
	_ = f.Parse(args)
	r.base = "http://" + *addr
	r.result = readResult{Took: map[string][]float64{}, Faults: map[string]int{}}
	if err := r.mark(ctx); err != nil {
		return err
	}
	from := time.Now().Add(*warmUp)
	var work sync.WaitGroup
	for range *people {
		work.Go(func() { r.run(ctx, from) })
	}
	work.Wait()
	return json.NewEncoder(os.Stdout).Encode(r.result)
}

// mark finds places all over the journal.
func (r *reader) mark(ctx context.Context) error {
	for range 32 {
		var e admin.EventDetail
		if err := r.decode(ctx, "/api/v1/events/"+eventID(rand.Int64N(r.events)), &e); err != nil {
			return err
		}
		m := mark{at: e.ReceivedAt.Time}
		var before admin.EventList
		if err := r.decode(ctx, "/api/v1/events?limit=1&until="+m.time(0), &before); err != nil {
			return err
		}
		if m.cursor = before.Next; m.cursor != "" {
			r.marks = append(r.marks, m)
		}
	}
	if len(r.marks) == 0 {
		return fmt.Errorf("no cursor: all %d events came at once", r.events)
	}
	return nil
}

func (r *reader) decode(ctx context.Context, path string, v any) error {
	b, err := r.get(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func (r *reader) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return b, err
}

// run asks for all pages in an order that is another one each time.
func (r *reader) run(ctx context.Context, from time.Time) {
	for {
		for _, n := range rand.Perm(len(pages)) {
			if ctx.Err() != nil {
				return
			}
			p := pages[n]
			path := p.url(rand.Int64N(r.events), r.marks[rand.IntN(len(r.marks))])
			began := time.Now()
			_, err := r.get(context.WithoutCancel(ctx), path) // what has begun is read to its end
			took := time.Since(began)
			r.mu.Lock()
			switch {
			case err != nil:
				r.result.Faults[p.name+": "+err.Error()]++
			case !began.Before(from):
				r.result.Took[p.name] = append(r.result.Took[p.name], float64(took.Microseconds())/1000)
			}
			r.mu.Unlock()
			if sleep(ctx, r.pause) != nil {
				return
			}
		}
	}
}
