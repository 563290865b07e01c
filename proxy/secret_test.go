package proxy_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// Every secret of this test's configuration holds the word canary, and every body the word chirp. Neither may be seen
// in the log, an error, an answer of our own, or what is shown to people.
func TestSecretsAndBodiesAreNotSeen(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	a := &app{}
	change := func(cfg *proxy.Config) {
		cfg.Log = zap.New(core)
		cfg.Sources["main"] = proxy.Source{Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{"whsec_canary_one", "whsec_canary_two"}, MaxBody: 1000}
		cfg.Sources["other"] = proxy.Source{Path: "/other", SigningSecrets: []proxy.Secret{"whsec_canary_other"}}
		cfg.Backends["legacy"] = proxy.Backend{
			URL: "http://legacy.test/hook?key=canary_url", SigningSecrets: []proxy.Secret{"whsec_canary_own"},
			Headers: map[string]proxy.Secret{"Authorization": "Bearer canary_header"},
			Retry:   proxy.Retry{Initial: time.Second, Max: time.Second},
		}
	}
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		var shown []string
		show := func(v ...any) { shown = append(shown, fmt.Sprintf("%v %+v %#v", v, v, v)) }
		answered := func(got *httptest.ResponseRecorder) { show(got.Code, got.Header(), got.Body.String()) }
		body := func(n int) []byte { return event(fmt.Sprintf("evt_%d", n), "chirp.paid") }
		for i, f := range []http.HandlerFunc{nil, answers(500), answers(404), cuts, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.RequestURI, http.StatusFound)
		}} {
			a.then(f)
			r := signed(body(i+1), "whsec_canary_one")
			r.URL.RawQuery = "token=canary_query"
			answered(do(w, r))
		}
		for _, s := range []string{"whsec_wrong", "whsec_canary_other"} {
			answered(do(w, signed(body(10), s)))
		}
		answered(do(w, signed([]byte(`{"chirp":`), "whsec_canary_two")))
		r := signed(body(11), "whsec_canary_one")
		r.URL.Path, r.URL.RawQuery = "/nowhere", "token=canary_query"
		answered(do(w, r))
		answered(do(w, signed([]byte(strings.Repeat("chirp", 300)), "whsec_canary_one")))
		time.Sleep(time.Minute)
		status := w.Backends()
		status[0].Config.URL = "" // is shown
		show(status, w.Sources())
		text, err := json.Marshal([]any{status, w.Sources(), w.cfg.Sources})
		show(string(text), err)
		show(w.cfg.Sources, w.cfg.Backends["legacy"].Headers, w.cfg.Backends["legacy"].SigningSecrets)
		for _, k := range w.journal.All() {
			_, attempts, _ := w.journal.Event(t.Context(), k.Event.Seq)
			show(attempts)
		}
		show(w.reload(func(cfg *proxy.Config) {
			cfg.Backends["legacy"] = proxy.Backend{URL: "http://user:canary_pw@legacy.test/\x01", SigningSecrets: []proxy.Secret{"canary \n"}}
			cfg.Sources["main"] = proxy.Source{Path: "x", SigningSecrets: []proxy.Secret{" canary"}}
		}))
		for _, l := range logged.All() {
			show(l.Message, l.ContextMap())
		}
		if len(shown) < 20 {
			t.Fatalf("%d texts", len(shown))
		}
		for _, s := range shown {
			if at := strings.Index(s, "canary"); at >= 0 {
				t.Errorf("a secret: %.300s", s[max(0, at-150):])
			}
			if at := strings.Index(strings.ReplaceAll(s, "chirp.paid", ""), "chirp"); at >= 0 {
				t.Errorf("a body: %.300s", s[max(0, at-150):])
			}
		}
	})
}

// A backend that shows what it was sent (phpinfo, a framework's debug page) must not spread our secrets: to the journal, the
// log, pages, or Stripe's dashboard.
func TestEchoedSecretsAreMasked(t *testing.T) {
	const own, pass, key = "whsec_canary/own+1", "canary:pa/ss<w>", "canary&key=\"1\""
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+pass))
	echo := func(w http.ResponseWriter, r *http.Request) {
		all := []string{own, pass, key, r.Header.Get("Authorization"), r.Header.Get("X-Key"), r.URL.RawQuery, r.URL.Query().Get("token"), secret}
		for _, s := range all {
			text, _ := json.Marshal(s)
			fmt.Fprintf(w, "%s %s %s %s %s\n", s, text, bytes.ReplaceAll(text, []byte("/"), []byte(`\/`)), html.EscapeString(s), url.QueryEscape(s))
		}
		fmt.Fprint(w, strings.Repeat(".", 4096)) // and so that the part that is kept ends in every place of a secret
	}
	for cut := range 40 {
		core, logged := observer.New(zapcore.DebugLevel)
		status := 200 + 300*(cut%2)
		a := &app{do: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Echo", r.Header.Get("X-Key"))
			w.WriteHeader(status)
			if cut > 1 {
				fmt.Fprint(w, strings.Repeat(".", 4096-cut/2)+r.Header.Get("X-Key")+r.Header.Get("X-Key"))
			}
			echo(w, r)
		}}
		change := func(cfg *proxy.Config) {
			cfg.Log = zap.New(core)
			cfg.Backends["legacy"] = proxy.Backend{
				URL: "http://legacy.test/hook?token=canary_token%2F1", SigningSecrets: []proxy.Secret{own},
				Headers: map[string]proxy.Secret{"Authorization": proxy.Secret(basic), "X-Key": key},
			}
		}
		inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
			got := w.post(event("evt_1", "invoice.paid"))
			_, attempts, _ := w.journal.Event(t.Context(), w.known("evt_1").Event.Seq)
			all := fmt.Sprint(got.Header(), got.Body, attempts, w.Backends()[0].LastFailure, logged.All())
			for _, s := range []string{"canary", strings.TrimPrefix(basic, "Basic "), secret} {
				if at := strings.Index(all, s); at >= 0 {
					t.Fatalf("cut %d: %q is seen: %.200s", cut, s, all[max(0, at-100):])
				}
			}
			if cut < 2 && !strings.Contains(all, "***") {
				t.Error("nothing is shown of the answer")
			}
		})
	}
}
