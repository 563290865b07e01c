package proxy_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestRoutesMatch(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	to := func(names ...string) []proxy.Target {
		var out []proxy.Target
		for _, n := range names {
			out = append(out, proxy.Target{Backend: n})
		}
		return out
	}
	paid := proxy.Event{Source: "main", Type: "invoice.paid", Livemode: true, Account: "acct_1", APIVersion: "2024-06-20"}
	own := paid
	own.Account = ""
	test := paid
	test.Livemode = false
	ask := proxy.Event{Source: "main", Type: "issuing_authorization.request"}
	ping := proxy.Event{Source: "main", Type: "v2.core.event_destination.ping"}
	unparsed := proxy.Event{Source: "main", ID: "sha256:00"}
	fallback := &proxy.Fallback{Status: 200, Body: "{}"}
	always, noRoute := proxy.AnswerAlways, proxy.Match{Answer: proxy.AnswerAlways, Reason: proxy.ReasonNoRoute}
	cases := []struct {
		name   string
		routes proxy.Routes
		event  proxy.Event
		want   proxy.Match
	}{
		{"no routes", nil, paid, noRoute},
		{"the exact type", proxy.Routes{{Types: []string{"invoice.paid"}, To: []string{"a"}}}, paid, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"a longer type", proxy.Routes{{Types: []string{"invoice.paid"}, To: []string{"a"}}}, proxy.Event{Type: "invoice.paid.late"}, noRoute},
		{"a dot is a dot", proxy.Routes{{Types: []string{"invoice.paid"}, To: []string{"a"}}}, proxy.Event{Type: "invoice_paid"}, noRoute},
		{"case counts", proxy.Routes{{Types: []string{"invoice.*"}, To: []string{"a"}}}, proxy.Event{Type: "Invoice.paid"}, noRoute},
		{"a star crosses dots", proxy.Routes{{Types: []string{"customer.*"}, To: []string{"a"}}}, proxy.Event{Type: "customer.subscription.updated"}, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"thin events have names of their own", proxy.Routes{{Types: []string{"invoice.*"}, To: []string{"a"}}}, proxy.Event{Type: "v1.invoice.paid"}, noRoute},
		{"one type of several", proxy.Routes{{Types: []string{"charge.*", "invoice.*"}, To: []string{"a"}}}, paid, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"the first match wins", proxy.Routes{{Types: []string{"invoice.*"}, To: []string{"a"}}, {Types: []string{"*"}, To: []string{"b"}}}, paid, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"in order, not the closest", proxy.Routes{{Types: []string{"*"}, To: []string{"a"}}, {Types: []string{"invoice.paid"}, To: []string{"b"}}}, paid, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"unless it says continue", proxy.Routes{{Types: []string{"invoice.*"}, To: []string{"a"}, Continue: true}, {To: []string{"b"}}, {To: []string{"c"}}}, paid, proxy.Match{Routes: []int{0, 1}, To: to("a", "b"), Answer: always}},
		{"continue and no more", proxy.Routes{{To: []string{"a"}, Continue: true}, {Types: []string{"charge.*"}, To: []string{"b"}}}, paid, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"named twice, delivered once", proxy.Routes{{To: []string{"a", "b", "a"}, Continue: true}, {To: []string{"b"}}}, paid, proxy.Match{Routes: []int{0, 1}, To: to("a", "b"), Answer: always}},
		{"a rule that ignores", proxy.Routes{{Types: []string{"invoice.*"}}, {To: []string{"a"}}}, paid, proxy.Match{Routes: []int{0}, Answer: always, Reason: proxy.ReasonRule}},
		{"ignore and continue", proxy.Routes{{Continue: true}, {To: []string{"a"}}}, paid, proxy.Match{Routes: []int{0, 1}, To: to("a"), Answer: always}},
		{"queued", proxy.Routes{{To: []string{"a"}, Queued: true, Continue: true}, {To: []string{"a", "b"}}}, paid, proxy.Match{Routes: []int{0, 1}, To: []proxy.Target{{Backend: "a", Queued: true}, {Backend: "b"}}, Answer: always}},

		{"source", proxy.Routes{{Source: "other", To: []string{"a"}}, {Source: "main", To: []string{"b"}}}, paid, proxy.Match{Routes: []int{1}, To: to("b"), Answer: always}},
		{"account", proxy.Routes{{Account: "acct_2", To: []string{"a"}}, {Account: "acct_1", To: []string{"b"}}}, paid, proxy.Match{Routes: []int{1}, To: to("b"), Answer: always}},
		{"account glob", proxy.Routes{{Account: "acct_*", To: []string{"a"}}}, paid, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"account glob and one's own", proxy.Routes{{Account: "acct_*", To: []string{"a"}}}, own, noRoute},
		{"one's own account", proxy.Routes{{Account: "-", To: []string{"a"}}}, own, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"one's own account and another's", proxy.Routes{{Account: "-", To: []string{"a"}}}, paid, noRoute},
		{"any account", proxy.Routes{{To: []string{"a"}}}, own, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},
		{"live", proxy.Routes{{Livemode: &no, To: []string{"a"}}, {Livemode: &yes, To: []string{"b"}}}, paid, proxy.Match{Routes: []int{1}, To: to("b"), Answer: always}},
		{"test", proxy.Routes{{Livemode: &yes, To: []string{"a"}}, {Livemode: &no, To: []string{"b"}}}, test, proxy.Match{Routes: []int{1}, To: to("b"), Answer: always}},
		{"api version", proxy.Routes{{APIVersion: "2023-*", To: []string{"a"}}, {APIVersion: "2024-*", To: []string{"b"}}}, paid, proxy.Match{Routes: []int{1}, To: to("b"), Answer: always}},
		{"all conditions hold", proxy.Routes{{Types: []string{"invoice.*"}, Source: "main", Account: "acct_1", Livemode: &yes, APIVersion: "2024-06-20", To: []string{"a"}}}, paid, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},

		{"unparseable and no types", proxy.Routes{{Types: []string{"*"}, To: []string{"a"}}, {Source: "main", To: []string{"b"}}}, unparsed, proxy.Match{Routes: []int{1}, To: to("b"), Answer: always}},
		{"unparseable and livemode", proxy.Routes{{Livemode: &no, To: []string{"a"}}}, unparsed, noRoute},
		{"ping under a star", proxy.Routes{{Types: []string{"*", "v2.*"}, To: []string{"a"}}, {To: []string{"a"}}}, ping, proxy.Match{Answer: always, Reason: proxy.ReasonPing}},
		{"ping by its name", proxy.Routes{{Types: []string{"v2.core.event_destination.ping"}, To: []string{"a"}}}, ping, proxy.Match{Routes: []int{0}, To: to("a"), Answer: always}},

		{"backend over always", proxy.Routes{{To: []string{"a"}, Continue: true}, {To: []string{"b"}, Answer: proxy.AnswerBackend, Continue: true}, {To: []string{"c"}}}, paid, proxy.Match{Routes: []int{0, 1, 2}, To: to("a", "b", "c"), Answer: proxy.AnswerBackend, HoldFor: 24 * time.Hour}},
		{"the longest hold", proxy.Routes{{To: []string{"a"}, Answer: proxy.AnswerBackend, HoldFor: time.Hour, Continue: true}, {To: []string{"b"}, Answer: proxy.AnswerBackend, HoldFor: 2 * time.Hour}}, paid, proxy.Match{Routes: []int{0, 1}, To: to("a", "b"), Answer: proxy.AnswerBackend, HoldFor: 2 * time.Hour}},
		{"relay", proxy.Routes{{To: []string{"a"}, Answer: proxy.AnswerRelay, Fallback: fallback}}, paid, proxy.Match{Routes: []int{0}, To: to("a"), Answer: proxy.AnswerRelay, Fallback: fallback}},
		{"relay of what has no envelope", proxy.Routes{{Source: "main", To: []string{"a"}, Answer: proxy.AnswerRelay}}, unparsed, proxy.Match{Routes: []int{0}, To: to("a"), Answer: proxy.AnswerRelay}},
		{"real time under a star goes to the first", proxy.Routes{{Types: []string{"*"}, To: []string{"a", "b"}, Continue: true}, {To: []string{"c"}}}, ask, proxy.Match{Routes: []int{0}, To: to("a"), Answer: proxy.AnswerRelay}},
		{"real time, queued", proxy.Routes{{To: []string{"a"}, Queued: true}}, ask, proxy.Match{Routes: []int{0}, To: to("a"), Answer: proxy.AnswerRelay}},
		{"real time, ignored", proxy.Routes{{}, {To: []string{"a"}}}, ask, proxy.Match{Routes: []int{0}, Answer: proxy.AnswerRelay, Reason: proxy.ReasonRule}},
		{"real time, no route", proxy.Routes{{Types: []string{"invoice.*"}, To: []string{"a"}}}, ask, proxy.Match{Answer: proxy.AnswerRelay, Reason: proxy.ReasonNoRoute}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if d := cmp.Diff(c.want, c.routes.Match(&c.event)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRealTimeTypesAreRelayed(t *testing.T) {
	t.Parallel()
	routes := proxy.Routes{{Types: []string{"*"}, To: []string{"a"}}}
	for _, typ := range []string{
		"issuing_authorization.request", "issuing_authentication.decision", "v1.delegated_checkout.finalize_checkout",
		"delegated_commerce.product_price_availability", "extend.workflows.custom_action",
	} {
		if m := routes.Match(&proxy.Event{Type: typ}); m.Answer != proxy.AnswerRelay {
			t.Errorf("%s: answer %s, want relay", typ, m.Answer)
		}
	}
}

func TestGlobMatch(t *testing.T) {
	t.Parallel()
	cases := []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"**", "a.b", true},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"*ab*ab", "abab", true},
		{"*ab*ab", "ab", false},
		{"a*b*c", "abcbc", true},
		{"*.updated", "a.b.updated", true},
		{"a?c", "abc", false},
		{"[ab]", "a", false},
		{`\*`, "*", false},
		{`\*`, `\x`, true},
	}
	for _, c := range cases {
		if got := proxy.GlobMatch(c.pattern, c.s); got != c.want {
			t.Errorf("%q ~ %q: got %v, want %v", c.pattern, c.s, got, c.want)
		}
	}
}

func TestGlobMatchIsARegexp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		checkGlob(t, rapid.StringMatching(`[ab.*]{0,12}`).Draw(t, "pattern"), rapid.StringMatching(`[ab.\n]{0,16}`).Draw(t, "text"))
	})
}

func FuzzGlobMatch(f *testing.F) {
	f.Add("invoice.*", "invoice.paid")
	f.Add("*a*b", "xaybzb")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if strings.ToValidUTF8(pattern+s, "") == pattern+s { // regexp takes text only
			checkGlob(t, pattern, s)
		}
	})
}

type fataler interface {
	Fatalf(format string, args ...any)
}

func checkGlob(t fataler, pattern, s string) {
	re := regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + `$`)
	if got, want := proxy.GlobMatch(pattern, s), re.MatchString(s); got != want {
		t.Fatalf("%q ~ %q: got %v, want %v", pattern, s, got, want)
	}
}
