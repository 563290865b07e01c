package admin

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// The web page is for a person at 3 p.m. It is rendered here from the same functions as the API's answers, works
// without scripts, and keeps itself current by asking for itself again whenever the live stream says that something
// happened: app.js has htmx morph what changed, so that a row under the mouse stays where it is.

//go:embed web
var web embed.FS

// pagePolicy lets the page's own style, scripts and requests work, and nothing else: no inline code of any kind.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// view is what every page knows.
type view struct {
	Title   string
	Nav     string // the entry of the menu that it belongs to
	Live    string // what the page asks for to become current; empty for one that does not change
	Notice  string
	Version string
	Login   bool // there is a token, so one can sign out
	Zone    string
	Data    any

	now  time.Time
	zone *time.Location
}

// asset returns the URL of a file of web/, which changes with its content.
func asset(name string) (string, error) {
	b, err := web.ReadFile("web/" + name)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return "/static/" + base64.RawURLEncoding.EncodeToString(sum[:9]) + "/" + name, nil
}

// templates holds one set for each page: the layout, the parts and the page itself.
var templates = func() map[string]*template.Template {
	base := template.New("").Funcs(template.FuncMap{
		"asset": asset, "visible": visible, "clip": clip, "count": func(n any) string { return conditions.Count(number(n)) }, "bytes": func(n any) string { return size(number(n)) },
		"plural": func(n any, one string) string { return conditions.Plural(number(n), one) },
		"state":  func(class, word string) stateView { return stateView{class, word} },
		"link": func(current, name, url, label string) tab {
			return tab{Label: label, Class: name, URL: url, Current: current == name}
		},
	})
	base = template.Must(base.ParseFS(web, "web/layout.html", "web/parts.html"))
	sets := map[string]*template.Template{}
	files, err := fs.Glob(web, "web/*.html")
	if err != nil {
		panic(err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(f, "web/"), ".html")
		if name != "layout" && name != "parts" {
			sets[name] = template.Must(template.Must(base.Clone()).ParseFS(web, f))
		}
	}
	return sets
}()

// number is what a template gives to a function that counts.
func number(n any) int64 {
	switch n := n.(type) {
	case int:
		return int64(n)
	case int64:
		return n
	}
	panic(fmt.Sprintf("%T is no number", n))
}

// pages is the web page: a method for each page and each act on one. Acts are operations of the API.
type pages struct {
	*core
	api *api
}

func (p *pages) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", p.overviewPage)
	mux.HandleFunc("GET /events", p.eventsPage)
	mux.HandleFunc("GET /events/{id}", p.eventPage)
	mux.HandleFunc("POST /events/{id}/resend", p.resendFromPage)
	mux.HandleFunc("GET /resend", p.resendPage)
	mux.HandleFunc("POST /resend", p.startFromPage)
	mux.HandleFunc("GET /jobs/{id}", p.jobPage)
	mux.HandleFunc("POST /jobs/{id}/stop", p.stopFromPage)
	mux.HandleFunc("GET /backends", p.backendsPage)
	mux.HandleFunc("POST /backends/{name}/{act}", p.pauseFromPage)
	mux.HandleFunc("GET /sources", p.sourcesPage)
	mux.HandleFunc("GET /quarantine", p.quarantinePage)
	mux.HandleFunc("POST /quarantine/{act}", p.quarantineFromPage)
	mux.HandleFunc("GET /config", p.configPage)
	mux.HandleFunc("POST /config/reload", p.reloadFromPage)
	mux.HandleFunc("GET /login", p.loginPage)
	mux.HandleFunc("GET /static/{hash}/{name...}", static)
}

// static serves the page's style and scripts. Their URL changes with them, so a browser may keep them.
func static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if want, err := asset(name); err != nil || want != r.URL.Path || strings.HasSuffix(name, ".html") {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeFileFS(w, r, web, "web/"+name)
}

// zoneCookie holds the browser's distance from UTC in minutes; app.js sets it.
const zoneCookie = "breakwater_zone"

func (p *pages) view(r *http.Request, nav, title string) view {
	v := view{
		Title: title, Nav: nav, Live: r.URL.RequestURI(), Notice: notices[r.URL.Query().Get("done")],
		Version: p.Version, Login: p.Token != "", now: time.Now(), zone: time.UTC,
	}
	if c, err := r.Cookie(zoneCookie); err == nil {
		var minutes int
		if _, err := fmt.Sscanf(c.Value, "%d", &minutes); err == nil && minutes > -24*60 && minutes < 24*60 {
			v.zone = time.FixedZone("", minutes*60)
		}
	}
	v.Zone = "UTC"
	if _, offset := v.now.In(v.zone).Zone(); offset != 0 {
		v.Zone += v.now.In(v.zone).Format("-07:00")
	}
	return v
}

// notices are what a page says after an act. The URL names one, so it can hold no text of somebody else's.
var notices = map[string]string{
	"resent":     "Resent. It is delivered in the background.",
	"in_flight":  "It is being sent at this moment, so it was left alone.",
	"paused":     "Paused. Its events are kept until you resume it.",
	"resumed":    "Resumed. What waited is delivered now.",
	"stopped":    "Stopped. What was resent until then stays resent.",
	"reloaded":   "The configuration was loaded and is active.",
	"released":   "Checked again: what verifies now was released.",
	"left":       "Checked again: none of it verifies with today's secrets.",
	"dropped":    "Dropped.",
	"signed_out": "You are signed out.",
}

// show renders a page, or the fault in it: never half of one.
func (p *pages) show(w http.ResponseWriter, status int, page string, v view) {
	var b bytes.Buffer
	if err := templates[page].ExecuteTemplate(&b, "layout", v); err != nil {
		p.Log.Error("page not rendered", zap.String("page", page), zap.Error(err))
		http.Error(w, "the page could not be rendered; the gateway's log says why", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// problemView says why something could not be shown or done.
type problemView struct {
	Text    string
	Details []string
	Back    string
}

// refuse shows an error of the API's functions as a page.
func (p *pages) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, problem := http.StatusInternalServerError, problemView{Text: err.Error(), Back: "/"}
	var model *huma.ErrorModel
	if errors.As(err, &model) {
		status, problem.Text = model.Status, model.Detail
		for _, d := range model.Errors {
			problem.Details = append(problem.Details, d.Message)
		}
	}
	v := p.view(r, "problem", "That did not work")
	if status == http.StatusNotFound {
		v.Title = "Not found"
	}
	if back, err := url.Parse(r.Referer()); err == nil && back.Host == r.Host && back.Path != "" {
		problem.Back = back.RequestURI()
	}
	v.Live, v.Data = "", problem
	p.show(w, status, "problem", v)
}

// back sends the browser to where it came from on this site, or else to path, with a notice.
func back(w http.ResponseWriter, r *http.Request, path, notice string) {
	u := &url.URL{Path: path}
	if to := r.FormValue("back"); local(to) {
		u, _ = url.Parse(to)
	}
	q := u.Query()
	q.Del("shown")
	q.Set("done", notice)
	u.RawQuery = q.Encode()
	http.Redirect(w, r, u.RequestURI(), http.StatusSeeOther)
}

// stateView is a state as a word; its shape and colour come from the style.
type stateView struct{ Class, Word string }

func stateOf(s proxy.State) stateView {
	word := string(s)
	return stateView{Class: word, Word: strings.ToUpper(word[:min(1, len(word))]) + word[min(1, len(word)):]}
}

type loginView struct {
	Next        string
	Wrong, Slow bool
}

func (p *pages) loginPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	v := p.view(r, "", "Sign in")
	v.Live, v.Data = "", loginView{Next: q.Get("next"), Wrong: q.Has("wrong"), Slow: q.Has("slow")}
	p.show(w, http.StatusOK, "login", v)
}
