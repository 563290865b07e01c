package toystripe

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stripe/stripe-go/v76/webhook"
)

var created = time.Date(2026, 11, 21, 19, 0, 0, 0, time.UTC)

// envelope is what all events have in common.
type envelope struct {
	ID, Object, Type, Account, Context string
	Created                            any
	Data                               struct{ Object map[string]any }
	Related                            *struct{ ID string } `json:"related_object"`
}

func read(t *testing.T, body []byte) (e envelope) {
	t.Helper()
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return e
}

func TestSamples(t *testing.T) {
	t.Parallel()
	if n := len(Types()); n < 25 {
		t.Errorf("only %d types", n)
	}
	for _, typ := range append(Types(), "invoice.overdue", "v1.customer.created", "nodots", `odd"type.☀.x`) {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			a, b := New(typ, Options{Created: created}), New(typ, Options{Created: created.Add(time.Hour)})
			e := read(t, a.Body)
			if e.Type != typ || a.Type != typ || e.ID != a.ID || a.ID == b.ID || !strings.HasPrefix(a.ID, "evt_") {
				t.Errorf("got %s %s and %s", e.Type, a.ID, b.ID)
			}
			if e.Object == "event" && !regexp.MustCompile(`^evt_1[0-9A-Za-z]{23}$`).MatchString(a.ID) {
				t.Errorf("%s does not look like an id of Stripe's", a.ID)
			}
			if a.Generic == (strings.Count(strings.Join(Types(), " ")+" ", typ+" ") > 0) {
				t.Errorf("generic: %v", a.Generic)
			}
			switch at := e.Created.(type) {
			case float64:
				if int64(at) != created.Unix() {
					t.Errorf("created at %v", int64(at))
				}
			case string:
				if at != "2026-11-21T19:00:00.000Z" {
					t.Errorf("created at %v", at)
				}
			case nil:
				if e.Object != "" {
					t.Error("not created")
				}
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, a.Body, "", "  "); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(indented.String(), string(a.Body)); d != "" {
				t.Errorf("not printed as Stripe prints: %s", d)
			}
			if left := regexp.MustCompile(`1772\d{6}|2026-03|<[a-z]+>`).Find(a.Body); left != nil {
				t.Errorf("%s was not replaced", left)
			}
		})
	}
}

// The times of an event keep their distances, and every mention of its object has the new id.
func TestNewIsConsistent(t *testing.T) {
	t.Parallel()
	ev := New("invoice.paid", Options{Created: created})
	o := read(t, ev.Body).Data.Object
	if got, want := o["created"].(float64), float64(created.Unix()-3600); got != want {
		t.Errorf("invoice created at %.0f, want %.0f", got, want)
	}
	id := o["id"].(string)
	if !regexp.MustCompile(`^in_1[0-9A-Za-z]{23}$`).MatchString(id) {
		t.Errorf("odd id %s", id)
	}
	if got, want := o["lines"].(map[string]any)["url"], "/v1/invoices/"+id+"/lines"; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if other := read(t, New("invoice.paid", Options{}).Body).Data.Object["id"]; other == id {
		t.Error("two events of one invoice")
	}
}

func TestAccount(t *testing.T) {
	t.Parallel()
	cases := []struct{ typ, account, wantAccount, wantContext string }{
		{"invoice.paid", "", "", ""},
		{"invoice.paid", "acct_7", "acct_7", ""},
		{"account.updated", "", "acct_1SxVbQPq7LmWzT0c", ""},
		{"account.updated", "acct_7", "acct_7", ""},
		{"v1.invoice.paid", "acct_7", "", "acct_7"},
		{"v2.core.account.updated", "acct_7", "", "acct_7"},
		{"v1.delegated_checkout.finalize_checkout", "acct_7", "", "acct_7"},
		{"made.up", "acct_7", "acct_7", ""},
		{"v2.made.up", "acct_7", "", "acct_7"},
	}
	for _, c := range cases {
		e := read(t, New(c.typ, Options{Account: c.account}).Body)
		if e.Account != c.wantAccount || e.Context != c.wantContext {
			t.Errorf("%s: got account %q, context %q, want %q, %q", c.typ, e.Account, e.Context, c.wantAccount, c.wantContext)
		}
	}
	if got := read(t, New("account.updated", Options{Account: "acct_7"}).Body).Data.Object["id"]; got != "acct_7" {
		t.Errorf("the account's object is %v", got)
	}
}

func TestGeneric(t *testing.T) {
	t.Parallel()
	ev := New("customer.subscription.paused", Options{Created: created})
	e := read(t, ev.Body)
	id, _ := e.Data.Object["id"].(string)
	if !ev.Generic || e.Data.Object["object"] != "subscription" || !strings.HasPrefix(id, "subscription_1") {
		t.Errorf("got %s", ev.Body)
	}
	thin := read(t, New("v2.money_management.payout.posted", Options{}).Body)
	if thin.Related == nil || !strings.HasPrefix(thin.Related.ID, "payout_1") || thin.Object != "v2.core.event" {
		t.Errorf("got %+v", thin)
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	ev := New("invoice.paid", Options{})
	req, err := Request(t.Context(), "http://127.0.0.1/x?y", ev, []string{"whsec_a", "whsec_b"}, Sending{})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	header := req.Header.Get("Stripe-Signature")
	if !regexp.MustCompile(`^t=\d{10}(,v1=[0-9a-f]{64}){2},v0=[0-9a-f]{64}$`).MatchString(header) {
		t.Errorf("got %s", header)
	}
	for _, s := range []string{"whsec_a", "whsec_b"} {
		if err := webhook.ValidatePayload(body, header, s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if !bytes.Equal(body, ev.Body) || req.ContentLength != int64(len(body)) || req.Method != "POST" || req.URL.RawQuery != "y" {
		t.Errorf("got %s %s of %d bytes", req.Method, req.URL, req.ContentLength)
	}
	req.Header.Del("Stripe-Signature")
	want := map[string][]string{
		"Accept": {"*/*; q=0.5, application/xml"}, "Accept-Encoding": {"gzip"}, "Cache-Control": {"no-cache"},
		"Content-Type": {"application/json; charset=utf-8"}, "User-Agent": {"Stripe/1.0 (+https://stripe.com/docs/webhooks)"},
	}
	if d := cmp.Diff(want, map[string][]string(req.Header)); d != "" {
		t.Error(d)
	}
}

func TestRequestGoneWrong(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		s    Sending
		want error
	}{
		{"stale", Sending{SignedAt: time.Now().Add(-time.Hour)}, webhook.ErrTooOld},
		{"tampered", Sending{Tamper: true}, webhook.ErrNoValidSignature},
	}
	for _, c := range cases {
		ev := New("invoice.paid", Options{})
		size := len(ev.Body)
		req, err := Request(t.Context(), "http://127.0.0.1", ev, []string{"whsec_a"}, c.s)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got := webhook.ValidatePayload(body, req.Header.Get("Stripe-Signature"), "whsec_a"); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
		if len(ev.Body) != size || !json.Valid(body) {
			t.Errorf("%s: the event was changed, or is no JSON", c.name)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	b.SetBytes(int64(len(New("invoice.paid", Options{}).Body)))
	b.ReportAllocs()
	for b.Loop() {
		New("invoice.paid", Options{Created: created})
	}
}

func BenchmarkRequest(b *testing.B) {
	ev := New("invoice.paid", Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Request(b.Context(), "http://127.0.0.1:8420/stripe/webhook", ev, []string{"whsec_a"}, Sending{}); err != nil {
			b.Fatal(err)
		}
	}
}
