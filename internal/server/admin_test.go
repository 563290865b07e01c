package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// client returns a client of the gateway's admin listener.
func (g *gateway) client(t *testing.T) *admin.Client {
	t.Helper()
	c, err := admin.NewClient(g.Admin, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (g *gateway) end(t *testing.T) {
	t.Helper()
	g.stop()
	if err := g.wait(t); err != nil {
		t.Fatalf("stop: %v", err)
	}
}

// While a backend is paused its events wait, over a restart too, and resume sends them.
func TestAPauseSurvivesARestart(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)
	paused, err := g.client(t).Pause(t.Context(), "legacy")
	if err != nil || !paused.Paused || time.Since(paused.PausedAt.Time) > time.Minute {
		t.Fatalf("%+v %v", paused, err)
	}
	if _, status, _ := g.send(t, http.DefaultClient, secret); status != 200 {
		t.Errorf("while paused Stripe gets %d", status)
	}
	g.end(t)

	g = start(t, dir)
	c := g.client(t)
	list, err := c.Backends(t.Context())
	if err != nil || !list.Backends[0].Paused || !list.Backends[0].PausedAt.Equal(paused.PausedAt.Time) {
		t.Fatalf("after a restart: %+v %v", list, err)
	}
	g.send(t, http.DefaultClient, secret)
	events, err := c.Events(t.Context(), admin.Filter{State: "pending"}, "", 0)
	if err != nil || len(events.Events) != 2 || events.Events[0].Deliveries[0].Why != "paused" || len(b.got()) != 0 {
		t.Fatalf("paused: %+v %v, the backend got %d", events, err, len(b.got()))
	}
	if _, figures := g.get(t, "/metrics"); !strings.Contains(figures, `breakwater_condition{about="legacy",id="backend_paused"} 1`) {
		t.Error("no metric says that it is paused")
	}
	if _, err := c.Resume(t.Context(), "legacy"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are delivered", func() bool { return len(b.got()) == 2 })
	g.end(t)

	g = start(t, dir)
	if list, err := g.client(t).Backends(t.Context()); err != nil || list.Backends[0].Paused {
		t.Errorf("resumed, and after a restart: %+v %v", list, err)
	}
	trail, err := g.client(t).Audit(t.Context(), 10)
	if err != nil || len(trail.Entries) != 2 || trail.Entries[0].Action != "resume" || trail.Entries[1].Actor != "loopback" {
		t.Errorf("audit: %+v %v", trail, err)
	}
}

// renamed is configuration with its backend under another name.
func renamed(backendURL, name, was string) string {
	s := strings.Replace(configuration(backendURL, ""), "{legacy: {", "{"+name+": {was: ["+was+"], ", 1)
	return strings.Replace(s, "to: [legacy]", "to: ["+name+"]", 1)
}

// A pause is of the deliveries, so it follows them to the backend's new name, and nothing of it is left under the old one.
func TestAPauseFollowsTheName(t *testing.T) {
	t.Parallel()
	reload := func(t *testing.T, g *gateway, _ string) *gateway {
		if status, body := call(t, "POST", g.Admin+"/api/v1/reload"); status != 200 {
			t.Fatalf("reload: %d %s", status, body)
		}
		return g
	}
	restart := func(t *testing.T, g *gateway, dir string) *gateway {
		g.end(t)
		return start(t, dir)
	}
	for name, again := range map[string]func(*testing.T, *gateway, string) *gateway{"reload": reload, "restart": restart} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, dir := newBackend(t), t.TempDir()
			path := filepath.Join(dir, "routes.yaml")
			write(t, path, configuration(b.URL, ""))
			g := start(t, dir)
			was, err := g.client(t).Pause(t.Context(), "legacy")
			if err != nil {
				t.Fatal(err)
			}
			paused := func(name string) bool {
				list, err := g.client(t).Backends(t.Context())
				i := slices.IndexFunc(list.Backends, func(b admin.Backend) bool { return b.Name == name })
				if err != nil || i < 0 {
					t.Fatalf("%+v %v", list, err)
				}
				if b := list.Backends[i]; b.Paused && !b.PausedAt.Equal(was.PausedAt.Time) {
					t.Errorf("paused since %s, want %s", b.PausedAt, was.PausedAt)
				}
				return list.Backends[i].Paused
			}
			g.send(t, http.DefaultClient, secret)
			write(t, path, renamed(b.URL, "billing", "legacy"))
			g = again(t, g, dir)
			if !paused("billing") {
				t.Error("renamed, it is not paused")
			}
			g.send(t, http.DefaultClient, secret)
			g = restart(t, g, dir)
			if !paused("billing") || len(b.got()) != 0 {
				t.Errorf("after a restart it is not paused, or was not: the backend got %d events", len(b.got()))
			}
			if _, err := g.client(t).Resume(t.Context(), "billing"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "both are delivered", func() bool { return len(b.got()) == 2 })
			g = again(t, g, dir)
			if paused("billing") {
				t.Error("resumed, it is paused again")
			}
			write(t, path, renamed(b.URL, "legacy", "billing"))
			g = again(t, g, dir)
			if paused("legacy") {
				t.Error("under its first name it is paused again")
			}
		})
	}
}

// Which secret matched when is known after a restart: who rolls one must know whether the old one is still of use.
func TestSourcesAreRemembered(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), strings.Replace(configuration(b.URL, ""), "["+secret+"]", "[whsec_never_seen_9999, "+secret+"]", 1))
	g := start(t, dir)
	g.send(t, http.DefaultClient, secret)
	before, err := g.client(t).Sources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.end(t)
	g = start(t, dir)
	after, err := g.client(t).Sources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	was, is := before.Sources[0], after.Sources[0]
	if was.Secrets[1].LastMatchedAt.IsZero() || !is.Secrets[1].LastMatchedAt.Equal(was.Secrets[1].LastMatchedAt.Truncate(time.Second)) ||
		!is.Secrets[0].LastMatchedAt.IsZero() || is.LastVerifiedAt.IsZero() || is.Secrets[1].Hint != secret[len(secret)-4:] {
		t.Errorf("before %+v\nafter %+v", was, is)
	}
}

func TestConfigurationForPeople(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	path := filepath.Join(dir, "routes.yaml")
	good := configuration(b.URL, "")
	write(t, path, good)
	g := start(t, dir)
	c := g.client(t)
	cfg, err := c.Config(t.Context())
	if err != nil || cfg.Path != path || !strings.Contains(cfg.Text, "\n    url: "+b.URL+"\n") || strings.Contains(cfg.Text, secret) ||
		cfg.LoadedAt.IsZero() || cfg.Error != "" {
		t.Fatalf("%+v %v", cfg, err)
	}
	write(t, path, good+"inline_timeot: 3s\n")
	var refused *admin.Error
	if _, err := c.Reload(t.Context()); !errors.As(err, &refused) || refused.Status != 422 {
		t.Fatalf("reload: %v", err)
	}
	bad, err := c.Config(t.Context())
	if err != nil || !strings.Contains(bad.Error, "inline_timeot") || bad.ErrorAt.IsZero() || bad.Text != cfg.Text || !bad.LoadedAt.Equal(cfg.LoadedAt.Time) {
		t.Errorf("with a fault in the file: %+v %v", bad, err)
	}
	write(t, path, strings.Replace(good, "listen: 127.0.0.1:0", "listen: 127.0.0.1:1", 1))
	if r, err := c.Reload(t.Context()); err != nil || len(r.Notes) != 1 {
		t.Fatalf("reload: %+v %v", r, err)
	}
	now, err := c.Config(t.Context())
	if err != nil || now.Error != "" || len(now.NeedsRestart) != 1 || !now.LoadedAt.After(cfg.LoadedAt.Time) {
		t.Errorf("at the end: %+v %v", now, err)
	}
}

// What failed while a backend was wrong is resent by filter, once it is right.
func TestBulkResendEndToEnd(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)
	c := g.client(t)
	for range 5 {
		g.send(t, http.DefaultClient, secret)
	}
	eventually(t, "history is written", func() bool {
		s, err := c.Stats(t.Context())
		return err == nil && s.Delivered == 5
	})
	filter := admin.Filter{State: "delivered", Type: "invoice.*", Backend: "legacy"}
	dry, err := c.BulkResend(t.Context(), admin.BulkResend{Filter: &filter, DryRun: true})
	if err != nil || dry.Count != 5 {
		t.Fatalf("dry run: %+v %v", dry, err)
	}
	run, err := c.BulkResend(t.Context(), admin.BulkResend{Filter: &filter})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the job is done and all were delivered again", func() bool {
		job, err := c.Job(t.Context(), run.Job.ID)
		return err == nil && job.State == "done" && job.Done == 5 && len(b.got()) == 10
	})
	detail, err := c.Event(t.Context(), "seq:1")
	if err != nil || detail.Deliveries[0].Turn != 2 {
		t.Errorf("%+v %v", detail, err)
	}
}

func TestBackupWhileServing(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)
	ev, _, _ := g.send(t, http.DefaultClient, secret)
	c := g.client(t)
	eventually(t, "history is written", func() bool { _, err := c.Event(t.Context(), ev.ID); return err == nil })
	other := t.TempDir()
	job, err := c.Backup(t.Context(), filepath.Join(other, "breakwater.db"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the backup is done", func() bool {
		job, err = c.Job(t.Context(), job.ID)
		return err == nil && job.State != "running"
	})
	if job.State != "done" {
		t.Fatalf("%+v", job)
	}
	write(t, filepath.Join(other, "routes.yaml"), configuration(b.URL, ""))
	if body, err := start(t, other).client(t).Body(t.Context(), ev.ID); err != nil || string(body) != string(ev.Body) {
		t.Errorf("from the copy: %q %v", body, err)
	}
	if _, err := c.Backup(t.Context(), filepath.Join(other, "breakwater.db")); !errors.Is(err, admin.ErrConflict) {
		t.Errorf("over the copy: %v", err)
	}
}

func TestStreamOfTheRunningGateway(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	enough := errors.New("enough")
	sent, seen := "", map[string]bool{}
	err := g.client(t).Stream(ctx, nil, func(m admin.RawMessage) error {
		if m.Event == admin.MessageStats && sent == "" {
			ev, _, _ := g.send(t, http.DefaultClient, secret)
			sent = ev.ID
		}
		var data struct{ ID, Backend, Result, Outcome string }
		if err := json.Unmarshal(m.Data, &data); err != nil {
			return err
		}
		seen[m.Event] = seen[m.Event] || data.ID == sent && (data.Result == "delivered" || data.Outcome == "delivered" && data.Backend == "legacy")
		if seen[admin.MessageEvent] && seen[admin.MessageAttempt] {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("%v; seen %v", err, seen)
	}
}

// Who resends an old event is told that newer ones of the same object have arrived.
func TestNewerEventsOfTheSameObject(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)
	ev := toystripe.New("invoice.paid", toystripe.Options{})
	ids := []string{ev.ID, ev.ID[:len(ev.ID)-1] + "_2", ev.ID[:len(ev.ID)-1] + "_3"}
	for _, id := range ids {
		same := ev
		same.ID, same.Body = id, bytes.ReplaceAll(ev.Body, []byte(ev.ID), []byte(id))
		req, err := toystripe.Request(t.Context(), g.Webhook+"/stripe/webhook", same, []string{secret}, toystripe.Sending{})
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		time.Sleep(2 * time.Millisecond) // events of one millisecond are not told apart
	}
	c := g.client(t)
	for i, id := range ids {
		eventually(t, id, func() bool {
			e, err := c.Event(t.Context(), id)
			return err == nil && e.OtherEvents == 2 && e.NewerDelivered == int64(2-i)
		})
	}
}
