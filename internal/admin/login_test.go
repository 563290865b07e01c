package admin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// signIn posts the form of the login page.
func signIn(h http.Handler, token, next string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	form := url.Values{"token": {token}, "next": {next}}
	r := httptest.NewRequest("POST", "/login", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Host = "bw.example"
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func with(c *http.Cookie) func(*http.Request) { return func(r *http.Request) { r.AddCookie(c) } }

func TestSignIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakes()
		h := f.handler(token)
		w := signIn(h, token, "/events?state=failed")
		if w.Code != 303 || w.Header().Get("Location") != "/events?state=failed" || len(w.Result().Cookies()) != 1 {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
		c := w.Result().Cookies()[0]
		if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || c.Path != "/" || c.MaxAge != 12*60*60 || len(c.Value) < 43 {
			t.Errorf("cookie: %+v", c)
		}
		if w := ask(h, "POST", "/api/v1/backends/legacy/pause", with(c)); w.Code != 200 {
			t.Errorf("with the session: %d %s", w.Code, w.Body)
		}
		if trail := f.audited(); !strings.Contains(trail, "session "+sessionName(c)+": sign in") ||
			!strings.Contains(trail, "session "+sessionName(c)+": pause: legacy") {
			t.Errorf("audit: %s", trail)
		}
		if w := ask(h, "POST", "/api/v1/reload", with(c), func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }); w.Code != 403 {
			t.Errorf("the session from another site: %d", w.Code)
		}
		other := *c
		other.Value = strings.ToUpper(c.Value)
		if w := ask(h, "GET", "/api/v1/stats", with(&other)); w.Code != 401 {
			t.Errorf("a made-up session: %d", w.Code)
		}
		time.Sleep(12 * time.Hour)
		if w := ask(h, "GET", "/api/v1/stats", with(c)); w.Code != 401 {
			t.Errorf("12 hours later: %d", w.Code)
		}
	})
}

func sessionName(c *http.Cookie) string {
	s := newSessions()
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(c)
	name, _ := s.actor(r)
	return strings.TrimPrefix(name, "session ")
}

func TestSignOut(t *testing.T) {
	t.Parallel()
	h := newFakes().handler(token)
	c := signIn(h, token, "").Result().Cookies()[0]
	w := ask(h, "POST", "/logout", with(c))
	if w.Code != 303 || w.Header().Get("Location") != "/login" || w.Result().Cookies()[0].MaxAge >= 0 {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ask(h, "GET", "/api/v1/stats", with(c)); w.Code != 401 {
		t.Errorf("after signing out: %d", w.Code)
	}
	if w := ask(h, "POST", "/logout"); w.Code != 303 {
		t.Errorf("again: %d", w.Code)
	}
}

// Behind a proxy a session never goes over plain HTTP, whatever a request says of the way that it came.
func TestSecureCookie(t *testing.T) {
	t.Parallel()
	h := newFakes().handler(token)
	for header, value := range map[string]string{
		"X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7", "X-Forwarded-Host": "bw.example", "Forwarded": "proto=http", "Via": "1.1 x",
	} {
		for _, proto := range []string{"", "http", value} {
			w := signIn(h, token, "", func(r *http.Request) {
				r.Header.Set("X-Forwarded-Proto", proto)
				r.Header.Set(header, value)
			})
			if !w.Result().Cookies()[0].Secure {
				t.Errorf("%s: %s, X-Forwarded-Proto: %s: the cookie goes over HTTP too", header, value, proto)
			}
		}
	}
}

func TestNextIsOurs(t *testing.T) {
	t.Parallel()
	h := newFakes().handler(token)
	for next, want := range map[string]string{
		"": "/", "/config": "/config", "/events?q=a&b=c": "/events?q=a&b=c", "//evil.example": "/", "https://evil.example/": "/",
		`/\evil.example`: "/", "evil": "/", "javascript:alert(1)": "/", "/\x00": "/",
	} {
		if got := signIn(h, token, next).Header().Get("Location"); got != want {
			t.Errorf("next %q leads to %q, want %q", next, got, want)
		}
	}
}

// Who guesses is slowed down, and an operator who has the same address is not.
func TestWrongTokensAreSlowedDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakes()
		h := f.handler(token)
		from := func(address string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = address } }
		attacker := from("198.51.100.7:1000")
		for i := range guessBurst {
			w := signIn(h, fmt.Sprint("guess", i), "/config", attacker)
			if got := w.Header().Get("Location"); w.Code != 303 || got != "/login?next=%2Fconfig&wrong=1" || len(w.Result().Cookies()) > 0 {
				t.Fatalf("%d %s %v", w.Code, got, w.Result().Cookies())
			}
		}
		w := signIn(h, "guess", "/", attacker)
		if got := w.Header().Get("Location"); got != "/login?next=%2F&slow=1" || len(w.Result().Cookies()) > 0 {
			t.Errorf("one too many: %s %v", got, w.Result().Cookies())
		}
		wrong := func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }
		if w := ask(h, "GET", "/api/v1/stats", attacker, wrong); w.Code != 429 || w.Header().Get("Retry-After") == "" || w.Header().Get("Connection") != "close" {
			t.Errorf("by the API likewise: %d %v", w.Code, w.Header())
		}
		if w := signIn(h, token, "/", attacker); len(w.Result().Cookies()) != 1 {
			t.Errorf("the right token from the same address: %v", w.Header())
		}
		if w := ask(h, "GET", "/api/v1/stats", attacker, bearer); w.Code != 200 {
			t.Errorf("the right token by the API: %d", w.Code)
		}
		time.Sleep(guessEvery)
		if w := ask(h, "GET", "/metrics", attacker, wrong); w.Code != 401 {
			t.Errorf("after a while: %d", w.Code)
		}
		for range guessBurst {
			ask(h, "GET", "/metrics", from("[2001:db8::1]:1"), wrong)
		}
		if w := ask(h, "GET", "/metrics", from("[2001:db8::2]:1"), wrong); w.Code != 429 {
			t.Errorf("a neighbour in the same network: %d", w.Code)
		}
	})
}

// Wrong tokens leave a trace, which grows no faster than people can read it, and has no token in it.
func TestWrongTokensAreLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		f := newFakes()
		f.log = zap.New(core)
		h := f.handler(token)
		guess := func() {
			ask(h, "GET", "/metrics", func(r *http.Request) {
				r.RemoteAddr = "198.51.100.7:1000"
				r.Header.Set("Authorization", "Bearer nearly-it")
			})
		}
		for range 1000 {
			guess()
		}
		if n := logs.Len(); n != guessBurst {
			t.Fatalf("%d lines, want %d", n, guessBurst)
		}
		time.Sleep(guessEvery)
		guess()
		lines := logs.All()
		last := lines[len(lines)-1]
		want := map[string]any{"address": "198.51.100.7:1000", "not_logged_before": int64(1000 - guessBurst)}
		if diff := cmp.Diff(want, last.ContextMap()); last.Message != "wrong admin token" || diff != "" {
			t.Errorf("%s (-want +got):\n%s", last.Message, diff)
		}
		if n := len(f.denied); n != 1001 {
			t.Errorf("%d were counted, want all", n)
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		first, _ := s.begin(time.Now())
		for range maxSessions {
			time.Sleep(time.Second)
			s.begin(time.Now())
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: sessionCookie, Value: first})
		if _, ok := s.actor(r); ok || len(s.ends) != maxSessions {
			t.Errorf("%d sessions, the oldest lives: %t", len(s.ends), ok)
		}
		many := newGuesses()
		for i := range 2 * guessersTracked {
			r.RemoteAddr = fmt.Sprintf("10.%d.%d.1:1", i/256, i%256)
			many.wrong(r)
		}
		if len(many.by) > guessersTracked {
			t.Errorf("%d addresses are kept", len(many.by))
		}
	})
}

func TestABrowserIsSentToTheLogin(t *testing.T) {
	t.Parallel()
	h := newFakes().handler(token)
	html := func(r *http.Request) { r.Header.Set("Accept", "text/html,*/*") }
	w := ask(h, "GET", "/events?state=failed", html)
	if w.Code != 303 || w.Header().Get("Location") != "/login?next=%2Fevents%3Fstate%3Dfailed" {
		t.Errorf("%d %s", w.Code, w.Header().Get("Location"))
	}
	if w := ask(h, "POST", "/api/v1/reload", html); w.Code != 401 {
		t.Errorf("a POST: %d", w.Code)
	}
	if w := ask(h, "GET", "/api/v1/stats"); w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" {
		t.Errorf("a tool: %d", w.Code)
	}
}

func TestEachChangeIsAudited(t *testing.T) {
	t.Parallel()
	f := newFakes()
	h := f.handler("")
	for _, path := range []string{
		"/api/v1/events/evt_1/resend", "/api/v1/backends/legacy/pause", "/api/v1/backends/legacy/resume", "/api/v1/reload",
		"/api/v1/quarantine/recheck",
	} {
		if w := ask(h, "POST", path); w.Code != 200 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	want := `loopback: resend: evt_1 (seq:2) to legacy
loopback: pause: legacy
loopback: resume: legacy
loopback: reload: listen: needs a restart
loopback: recheck quarantine: 2 checked, 1 released`
	if got := f.audited(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, path := range []string{"/api/v1/events", "/api/v1/backends", "/api/v1/stats", "/api/v1/audit"} {
		ask(h, "GET", path)
	}
	if got := f.audited(); got != want {
		t.Errorf("looking is audited: %s", got)
	}
}

// In an outage of the journal a pause holds all the same, and its fate at a restart is told.
func TestPauseWithoutTheJournal(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.err = fmt.Errorf("disk I/O error")
	w := ask(f.handler(""), "POST", "/api/v1/backends/legacy/pause")
	if w.Code != 503 || !strings.Contains(w.Body.String(), "after a restart") || !f.paused["legacy"] {
		t.Errorf("%d %s, paused %t", w.Code, w.Body, f.paused["legacy"])
	}
}
