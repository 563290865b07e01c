package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Message is one message of the live stream. Data is a StreamEvent, StreamAttempt, Backend or Stats, as Event says.
type Message struct {
	Event string
	Data  any
}

// The messages of the stream.
const (
	MessageEvent   = "event"   // a request was answered
	MessageAttempt = "attempt" // an attempt to deliver ended
	MessageBackend = "backend" // a backend is not as it was; at first every one
	MessageStats   = "stats"   // every few seconds
)

var messageTypes = map[string]reflect.Type{
	MessageEvent: reflect.TypeFor[StreamEvent](), MessageAttempt: reflect.TypeFor[StreamAttempt](),
	MessageBackend: reflect.TypeFor[Backend](), MessageStats: reflect.TypeFor[Stats](),
}

// StreamEvent says that a request was answered.
type StreamEvent struct {
	At         Time   `json:"at"`
	Source     string `json:"source" doc:"Empty for a path of no source"`
	ID         string `json:"id" doc:"Empty when no event was verified, as are the fields that follow"`
	Type       string `json:"type"`
	Account    string `json:"account"`
	Object     string `json:"object"`
	Livemode   bool   `json:"livemode"`
	Result     string `json:"result" doc:"What became of it: delivered, stored, held, duplicate, ignored, unrouted, unparseable, relayed, rejected, quarantined, too_large, refused"`
	DurationMS int64  `json:"duration_ms"`
}

// StreamAttempt says that an attempt ended.
type StreamAttempt struct {
	ID     string `json:"id" doc:"The event's"`
	Source string `json:"source"`
	Type   string `json:"type"`
	Attempt
}

const (
	backendsEvery  = time.Second
	statsEvery     = 5 * time.Second
	heartbeatEvery = 15 * time.Second
	streamWrite    = 10 * time.Second // for each write; then the client is gone
)

type streamInput struct {
	Only []string `query:"only" nullable:"false" enum:"event,attempt,backend,stats" doc:"Only these messages; default all"`
}

func (a *api) stream(_ context.Context, in *streamInput) (*huma.StreamResponse, error) {
	l := a.Feed.listen()
	if l == nil {
		return nil, huma.Error503ServiceUnavailable(fmt.Sprintf("%d clients listen already", maxListeners))
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		defer a.Feed.leave(l)
		r, w := humago.Unwrap(c)
		rc := http.NewResponseController(w)
		s := &streaming{core: a.core, only: in.Only, rc: rc, w: bufio.NewWriter(patient{w, rc}), sent: map[string][]byte{}}
		h := w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("X-Accel-Buffering", "no")
		s.run(r.Context(), l)
	}}, nil
}

// streaming is one client of the stream.
type streaming struct {
	*core
	only []string
	w    *bufio.Writer
	rc   *http.ResponseController
	sent map[string][]byte // each backend as it was last sent
}

func (s *streaming) run(ctx context.Context, l *listener) {
	look, stats, heartbeat := time.NewTicker(backendsEvery), time.NewTicker(statsEvery), time.NewTicker(heartbeatEvery)
	defer look.Stop()
	defer stats.Stop()
	defer heartbeat.Stop()
	fmt.Fprint(s.w, "retry: 2000\n\n")
	s.sendBackends(ctx)
	s.sendStats(ctx)
	for s.flush() == nil {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-l.messages:
			for n := len(l.messages); ok; n-- { // what is there goes out in one piece
				s.send(m)
				if n <= 0 {
					break
				}
				m, ok = <-l.messages
			}
			if !ok {
				fmt.Fprint(s.w, ": too slow\n\n")
				_ = s.flush()
				return
			}
		case <-look.C:
			s.sendBackends(ctx)
		case <-stats.C:
			s.sendStats(ctx)
		case <-heartbeat.C:
			fmt.Fprint(s.w, ":\n\n")
		}
	}
}

func (s *streaming) flush() error {
	if s.w.Buffered() == 0 {
		return nil
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	return s.rc.Flush()
}

// patient gives each write its own time.
type patient struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (p patient) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(streamWrite))
	return p.ResponseWriter.Write(b)
}

func (s *streaming) wants(event string) bool {
	return len(s.only) == 0 || slices.Contains(s.only, event)
}

func (s *streaming) send(m Message) {
	if !s.wants(m.Event) {
		return
	}
	if data, err := json.Marshal(m.Data); err == nil {
		s.write(m.Event, data)
	}
}

// write takes data without line breaks; json.Marshal makes none.
func (s *streaming) write(event string, data []byte) {
	fmt.Fprintf(s.w, "event: %s\ndata: %s\n\n", event, data)
}

// sendBackends sends those that are not as they were. What cannot be read now is sent later.
func (s *streaming) sendBackends(ctx context.Context) {
	if !s.wants(MessageBackend) {
		return
	}
	list, _, err := s.backends(ctx)
	if err != nil {
		return
	}
	for _, b := range wireBackends(list) {
		data, err := json.Marshal(b)
		if err == nil && string(data) != string(s.sent[b.Name]) {
			s.sent[b.Name] = data
			s.write(MessageBackend, data)
		}
	}
}

func (s *streaming) sendStats(ctx context.Context) {
	if !s.wants(MessageStats) {
		return
	}
	if stats, err := s.stats(ctx); err == nil {
		s.send(Message{MessageStats, stats})
	}
}

// streamResponse describes the stream: each message's data, by its event.
func streamResponse(r huma.Registry) map[string]*huma.Response {
	names := []string{MessageEvent, MessageAttempt, MessageBackend, MessageStats}
	var of []*huma.Schema
	for _, name := range names {
		of = append(of, &huma.Schema{
			Type: huma.TypeObject, Required: []string{"event", "data"},
			Properties: map[string]*huma.Schema{
				"event": {Type: huma.TypeString, Enum: []any{name}}, "data": r.Schema(messageTypes[name], true, name),
			},
		})
	}
	return map[string]*huma.Response{"200": {
		Description: "Server-sent events until the client leaves. One that does not keep up is dropped.",
		Content: map[string]*huma.MediaType{"text/event-stream": {
			Schema: &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{OneOf: of}},
		}},
	}}
}
