package admin

import (
	"context"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Configuration is the routes.yaml that is at work.
type Configuration struct {
	Path         string   `json:"path"`
	Text         string   `json:"text" doc:"As YAML, with its defaults; secrets are ***"`
	LoadedAt     Time     `json:"loaded_at"`
	Error        string   `json:"error" doc:"Why the file as it is now was not taken; empty when it was"`
	ErrorAt      Time     `json:"error_at"`
	Warnings     []string `json:"warnings" nullable:"false"`
	NeedsRestart []string `json:"needs_restart" nullable:"false" doc:"What was changed in the file but needs a restart"`
}

type configOutput struct{ Body Configuration }

func (a *api) getConfig(context.Context, *struct{}) (*configOutput, error) {
	c := a.Config()
	c.Warnings, c.NeedsRestart = append([]string{}, c.Warnings...), append([]string{}, c.NeedsRestart...)
	return &configOutput{c}, nil
}

// ReloadResult says how a reload went.
type ReloadResult struct {
	Notes []string `json:"notes" nullable:"false" doc:"What was changed in the file but needs a restart"`
}

type reloadOutput struct{ Body ReloadResult }

func (a *api) reload(ctx context.Context, _ *struct{}) (*reloadOutput, error) {
	notes, err := a.Reload()
	if err != nil {
		a.audit(ctx, "reload", "not taken")
		return nil, huma.Error422UnprocessableEntity("the configuration was not taken, the old one stays: " + err.Error())
	}
	a.audit(ctx, "reload", strings.Join(notes, "; "))
	return &reloadOutput{ReloadResult{append([]string{}, notes...)}}, nil
}
