package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

const (
	loginPath     = "/login"
	logoutPath    = "/logout"
	sessionCookie = "breakwater_session"
	sessionFor    = 12 * time.Hour
	maxSessions   = 256
)

// isToken compares in constant time, the length included.
func (a *access) isToken(token string) bool {
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(a.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// login begins a session for who knows the token: a form with token and next, where to go then.
func (a *access) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	next := r.PostFormValue("next")
	if !local(next) {
		next = "/"
	}
	again := func(why string) {
		http.Redirect(w, r, loginPath+"?"+url.Values{why: {"1"}, "next": {next}}.Encode(), http.StatusSeeOther)
	}
	switch {
	case a.Token == "": // nothing to sign in to
	case !a.isToken(r.PostFormValue("token")):
		a.count(DeniedToken)
		if a.guessed(w, r) {
			again("slow")
		} else {
			again("wrong")
		}
		return
	default:
		id, actor := a.sessions.begin(time.Now())
		setSession(w, r, id, int(sessionFor/time.Second))
		a.audit(as(r, actor).Context(), "sign in", "")
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (a *access) logout(w http.ResponseWriter, r *http.Request) {
	if _, ok := a.sessions.actor(r); ok {
		c, _ := r.Cookie(sessionCookie)
		a.sessions.end(c.Value)
		a.audit(r.Context(), "sign out", "")
	}
	setSession(w, r, "", -1)
	http.Redirect(w, r, loginPath, http.StatusSeeOther)
}

// setSession keeps the cookie to TLS where there is a proxy: no header that anybody may send can say that there was none in
// front of it. Only a browser that is connected to us gets it for plain HTTP, which is then all there is.
func setSession(w http.ResponseWriter, r *http.Request, id string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: id, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || proxied(r),
	})
}

// local reports whether a URL can only lead to a path of ours.
func local(next string) bool {
	u, err := url.Parse(next)
	return err == nil && u.Scheme == "" && u.Host == "" && strings.HasPrefix(next, "/") &&
		!strings.HasPrefix(next, "//") && !strings.Contains(next, `\`)
}

// sessions are the browsers that are signed in. They end with the process.
type sessions struct {
	mu   sync.Mutex
	ends map[[sha256.Size]byte]time.Time // by the hash of what is in the cookie
}

func newSessions() *sessions { return &sessions{ends: map[[sha256.Size]byte]time.Time{}} }

// begin returns what to put into the cookie. With too many sessions, the oldest one ends.
func (s *sessions) begin(now time.Time) (id, actor string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	id = base64.RawURLEncoding.EncodeToString(b[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ends) >= maxSessions {
		var oldest [sha256.Size]byte
		ends := now.Add(2 * sessionFor)
		for k, end := range s.ends {
			if end.Before(ends) {
				oldest, ends = k, end
			}
		}
		delete(s.ends, oldest)
	}
	key := sha256.Sum256([]byte(id))
	s.ends[key] = now.Add(sessionFor)
	return id, sessionActor(key)
}

func sessionActor(key [sha256.Size]byte) string { return "session " + hex.EncodeToString(key[:2]) }

// actor says whose session a request belongs to.
func (s *sessions) actor(r *http.Request) (string, bool) {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return "", false
	}
	key := sha256.Sum256([]byte(c.Value))
	s.mu.Lock()
	defer s.mu.Unlock()
	end, ok := s.ends[key]
	if ok && !time.Now().Before(end) {
		delete(s.ends, key)
		ok = false
	}
	return sessionActor(key), ok
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ends, sha256.Sum256([]byte(id)))
}

// guessed says in the log that somebody gave a wrong token, and reports whether there were too many of his address: each
// one more then costs him a connection.
func (a *access) guessed(w http.ResponseWriter, r *http.Request) (tooMany bool) {
	tooMany, say, unsaid := a.guesses.wrong(r)
	if say {
		a.Log.Warn("wrong admin token", zap.String("address", r.RemoteAddr), zap.Int("not_logged_before", unsaid))
	}
	if tooMany {
		w.Header().Set("Retry-After", "10")
		w.Header().Set("Connection", "close")
	}
	return tooMany
}

// guesses counts wrong tokens: each address has a few, then one now and then. Guesses can only be made dear, not stopped,
// for the right token is always taken: a long one is what keeps people out.
type guesses struct {
	mu     sync.Mutex
	by     map[netip.Prefix]*rate.Limiter
	lines  *rate.Limiter // of the log, whoever guesses
	unsaid int           // since the last line
}

const (
	guessEvery      = 10 * time.Second
	guessBurst      = 10
	guessersTracked = 4096
)

func newGuesses() *guesses {
	return &guesses{by: map[netip.Prefix]*rate.Limiter{}, lines: rate.NewLimiter(rate.Every(guessEvery), guessBurst)}
}

// from is who makes a request: its address, or its network where a machine has a whole one.
func from(r *http.Request) netip.Prefix {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// wrong is told of a wrong token. It returns whether there were too many of this address, and whether the log is to say
// so, with how many it was not told of since its last line.
func (g *guesses) wrong(r *http.Request) (tooMany, say bool, unsaid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.by[from(r)]
	if l == nil {
		if len(g.by) >= guessersTracked {
			clear(g.by)
		}
		l = rate.NewLimiter(rate.Every(guessEvery), guessBurst)
		g.by[from(r)] = l
	}
	if say = g.lines.Allow(); say {
		unsaid, g.unsaid = g.unsaid, 0
	} else {
		g.unsaid++
	}
	return !l.Allow(), say, unsaid
}
