package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

const (
	signingSecret = "whsec_bench"
	webhookPath   = "/stripe/webhook"
	answerLimit   = 30 * time.Second
)

// types have bodies of 2.0 to 3.0 KB, 2.5 KB on average.
var types = []string{
	"payment_intent.succeeded", "charge.dispute.created", "payment_intent.requires_action", "charge.succeeded",
	"checkout.session.completed", "customer.subscription.created",
}

// loadResult is what the load generator saw. Events and latencies are those answered 2xx while it measured.
type loadResult struct {
	Events   int            `json:"events"`
	Seconds  float64        `json:"seconds"`
	P50      float64        `json:"p50_ms"`
	P99      float64        `json:"p99_ms"`
	P999     float64        `json:"p99.9_ms"`
	Body     float64        `json:"body_bytes"` // on average
	Statuses map[string]int `json:"statuses"`   // of all answers, those before and after the measurement too
	Errors   map[string]int `json:"errors"`     // connections that broke
}

// sender is one connection of the load. It sends the next event when the last one is answered, and no earlier than it is due.
type sender struct {
	addr     string
	client   *http.Client // nil: conn is used
	conn     net.Conn
	r        *bufio.Reader
	due      func() time.Time // when the next event is to be sent; nil: when the last one is answered
	buf      []byte
	took     []time.Duration // of answers 2xx while measuring
	statuses map[string]int
	errors   map[string]int
	body     int // bytes of the body in buf
	bytes    int // of the bodies that took counts
}

// loadRole sends signed events for a while and prints a loadResult. It says when it begins to measure, and when it ends.
//
// net/http's client costs about as much as what is measured, which brings all variants closer together. The raw one
// writes a request in one piece and reads only what it must of the answer.
func loadRole(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("load", flag.ExitOnError)
	addr := f.String("to", "", "host:port")
	connections := f.Int("connections", 64, "")
	client := f.String("client", clientRaw, "")
	warmUp := f.Duration("warm-up", time.Second, "")
	duration := f.Duration("duration", 5*time.Second, "")
	perSecond := f.Int("rate", 0, "events a second of all connections together; 0: as many as are answered")
	_ = f.Parse(args)
	debug.SetGCPercent(400)

	from := time.Now().Add(*warmUp)
	to := from.Add(*duration)
	time.AfterFunc(time.Until(from), func() { fmt.Println(lineFrom) })
	time.AfterFunc(time.Until(to), func() { fmt.Println(lineTo) })
	due := pace(time.Now(), *perSecond)
	senders := make([]*sender, *connections)
	var work sync.WaitGroup
	for i := range senders {
		s := &sender{addr: *addr, due: due, statuses: map[string]int{}, errors: map[string]int{}}
		if *client == clientNetHTTP {
			s.client = &http.Client{Transport: &http.Transport{}, Timeout: answerLimit}
		}
		senders[i] = s
		work.Go(func() { s.run(ctx, i, from, to) })
	}
	work.Wait()
	return json.NewEncoder(os.Stdout).Encode(sum(senders, *duration))
}

// pace says when each event is due, one after the other; nil when they are not to wait.
func pace(from time.Time, perSecond int) func() time.Time {
	if perSecond == 0 {
		return nil
	}
	var n atomic.Int64
	return func() time.Time {
		return from.Add(time.Duration(n.Add(1)) * time.Second / time.Duration(perSecond))
	}
}

// Clients of the load.
const (
	clientRaw     = "raw"
	clientNetHTTP = "net/http"
)

// Lines that the load generator prints before its result.
const (
	lineFrom = "from"
	lineTo   = "to"
)

func (s *sender) run(ctx context.Context, i int, from, to time.Time) {
	for n := i; ctx.Err() == nil; n++ {
		if !time.Now().Before(to.Add(50 * time.Millisecond)) { // the load goes on until the end was noticed
			break
		}
		if s.due != nil {
			time.Sleep(time.Until(s.due()))
		}
		status, began, err := s.next(ctx, types[n%len(types)])
		ended := time.Now()
		if err != nil {
			s.errors[err.Error()]++
			s.disconnect()
			continue
		}
		s.statuses[status]++
		if status[0] == '2' && !ended.Before(from) && ended.Before(to) {
			s.took = append(s.took, ended.Sub(began))
			s.bytes += s.body
		}
	}
	s.disconnect()
}

// next sends a new event and returns the status of its answer, and when it was sent.
func (s *sender) next(ctx context.Context, typ string) (status string, began time.Time, err error) {
	if s.client != nil {
		began = time.Now()
		status, err = s.exchangeHTTP(ctx, typ)
		return status, began, err
	}
	s.prepare(typ)
	began = time.Now()
	status, err = s.exchange()
	return status, began, err
}

func (s *sender) disconnect() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// prepare writes a request with a new event into buf.
func (s *sender) prepare(typ string) {
	now := time.Now()
	e := toystripe.New(typ, toystripe.Options{Created: now})
	b := append(s.buf[:0], "POST "+webhookPath+" HTTP/1.1\r\nHost: hooks.example.com\r\n"+
		"User-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\nAccept: */*; q=0.5, application/xml\r\n"+
		"Cache-Control: no-cache\r\nContent-Type: application/json; charset=utf-8\r\nStripe-Signature: t="...)
	b = strconv.AppendInt(b, now.Unix(), 10)
	b = append(b, ",v1="...)
	b = hex.AppendEncode(b, webhook.ComputeSignature(now, e.Body, signingSecret))
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(e.Body)), 10)
	b = append(b, "\r\n\r\n"...)
	s.buf, s.body = append(b, e.Body...), len(e.Body)
}

// exchange sends buf and returns the status of the answer.
func (s *sender) exchange() (status string, err error) {
	if s.conn == nil {
		if s.conn, err = net.Dial("tcp", s.addr); err != nil {
			return "", err
		}
		s.r = bufio.NewReader(s.conn)
	}
	if err := s.conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return "", err
	}
	if _, err := s.conn.Write(s.buf); err != nil {
		return "", err
	}
	return s.answer()
}

// exchangeHTTP does with net/http what prepare and exchange do.
func (s *sender) exchangeHTTP(ctx context.Context, typ string) (status string, err error) {
	e := toystripe.New(typ, toystripe.Options{})
	s.body = len(e.Body)
	req, err := toystripe.Request(ctx, "http://"+s.addr+webhookPath, e, []string{signingSecret}, toystripe.Sending{})
	if err != nil {
		return "", err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return strconv.Itoa(res.StatusCode), err
}

var (
	contentLength    = []byte("content-length:")
	transferEncoding = []byte("transfer-encoding:")
	connectionClose  = []byte("connection: close")
)

// answer reads one answer that says how long it is.
func (s *sender) answer() (status string, err error) {
	line, err := s.r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	if len(line) < 13 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return "", errors.New("the answer is no HTTP/1.1")
	}
	status = statusText(line[9:12])
	length, last := -1, false
	for {
		if line, err = s.r.ReadSlice('\n'); err != nil {
			return "", err
		}
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0:
			if length < 0 {
				return "", errors.New("the answer has no Content-Length")
			}
			_, err = s.r.Discard(length)
			if last {
				s.disconnect()
			}
			return status, err
		case hasPrefixFold(line, contentLength):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):]))); err != nil {
				return "", err
			}
		case hasPrefixFold(line, transferEncoding):
			return "", errors.New("the answer has a Transfer-Encoding")
		case hasPrefixFold(line, connectionClose):
			last = true
		}
	}
}

func hasPrefixFold(b, prefix []byte) bool {
	return len(b) >= len(prefix) && bytes.EqualFold(b[:len(prefix)], prefix)
}

// statusText is string(b) without its allocation for the usual one.
func statusText(b []byte) string {
	if string(b) == "200" {
		return "200"
	}
	return string(b)
}

func sum(senders []*sender, d time.Duration) loadResult {
	r := loadResult{Seconds: d.Seconds(), Statuses: map[string]int{}, Errors: map[string]int{}}
	var took []time.Duration
	size := 0
	for _, s := range senders {
		took = append(took, s.took...)
		size += s.bytes
		for k, n := range s.statuses {
			r.Statuses[k] += n
		}
		for k, n := range s.errors {
			r.Errors[k] += n
		}
	}
	slices.Sort(took)
	r.Events = len(took)
	if r.Events == 0 {
		return r
	}
	at := func(q float64) float64 {
		return float64(took[min(int(q*float64(len(took))), len(took)-1)]) / float64(time.Millisecond)
	}
	r.P50, r.P99, r.P999, r.Body = at(0.5), at(0.99), at(0.999), float64(size)/float64(len(took))
	return r
}

// answered2xx counts all answers that were 2xx.
func (r loadResult) answered2xx() (n int) {
	for status, count := range r.Statuses {
		if status[0] == '2' {
			n += count
		}
	}
	return n
}

// faults says what was not answered 2xx.
func (r loadResult) faults() (faults []string) {
	for status, n := range r.Statuses {
		if status[0] != '2' {
			faults = append(faults, fmt.Sprintf("%d answers with status %s", n, status))
		}
	}
	for text, n := range r.Errors {
		faults = append(faults, fmt.Sprintf("%d times %s", n, text))
	}
	return faults
}

// runLoad runs the load generator as a process of its own. from and to are called when it begins and ends to measure.
func (o options) runLoad(ctx context.Context, addr string, from, to func(load *process) error) (r loadResult, err error) {
	p, err := startRole(ctx, filepath.Join(o.dir, "load.log"), "load", "-to", addr, "-connections", strconv.Itoa(o.connections),
		"-client", o.client, "-warm-up", o.warmUp.String(), "-duration", o.duration.String(), "-rate", strconv.Itoa(o.rate))
	if err != nil {
		return r, err
	}
	defer p.kill()
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			return r, fmt.Errorf("load generator: %w", errors.Join(err, p.err()))
		}
		switch line {
		case lineFrom + "\n":
			err = from(p)
		case lineTo + "\n":
			err = to(p)
		default:
			_, _ = io.Copy(io.Discard, p.out)
			return r, json.Unmarshal([]byte(line), &r)
		}
		if err != nil {
			return r, err
		}
	}
}
