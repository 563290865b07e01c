package admin

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// register adds every operation of the API.
func (a *api) register(h huma.API) {
	get(h, "list-events", "/api/v1/events", a.listEvents, "List events, newest first")
	get(h, "get-event", "/api/v1/events/{id}", a.getEvent, "Get an event with its deliveries and attempts")
	huma.Register(h, huma.Operation{
		OperationID: "get-event-body", Method: http.MethodGet, Path: "/api/v1/events/{id}/body", Summary: "Get the bytes that Stripe sent",
		Responses: map[string]*huma.Response{"200": {
			Description: "The very bytes, as a file to save.", Content: map[string]*huma.MediaType{"application/octet-stream": {}},
		}},
	}, a.getBody)
	post(h, "resend-event", "/api/v1/events/{id}/resend", a.resend, "Deliver an event again",
		"To the backends named, else to those it was delivered to, else to those that today's routes choose.")

	post(h, "resend-events", "/api/v1/resend", a.bulkResend, "Deliver many events again",
		"With dry_run they are only counted. Else a job does it, newest first; it can be stopped, and goes on after a restart.")
	get(h, "list-jobs", "/api/v1/jobs", a.listJobs, "List jobs, newest first")
	get(h, "get-job", "/api/v1/jobs/{id}", a.getJob, "Get a job")
	post(h, "stop-job", "/api/v1/jobs/{id}/stop", a.stopJob, "Stop a job", "What it has done until then stays done.")
	post(h, "backup", "/api/v1/backup", a.startBackup, "Copy the journal to a file",
		"A job makes a consistent copy while the gateway serves. The file is the gateway's user's, on its machine.")

	get(h, "list-conditions", "/api/v1/conditions", a.listConditions, "List what wants a person, worst first")
	get(h, "list-backends", "/api/v1/backends", a.listBackends, "List the backends and how they do")
	post(h, "pause-backend", "/api/v1/backends/{name}/pause", a.pause, "Hold a backend's deliveries",
		"Events are kept, nothing is sent, until it is resumed; a restart does not end the pause.")
	post(h, "resume-backend", "/api/v1/backends/{name}/resume", a.resume, "End a pause", "")

	get(h, "list-sources", "/api/v1/sources", a.listSources, "List the sources and what they have seen")
	get(h, "get-stats", "/api/v1/stats", a.getStats, "Get figures of the whole gateway")
	huma.Register(h, huma.Operation{
		OperationID: "stream", Method: http.MethodGet, Path: "/api/v1/stream", Summary: "Hear what happens, live",
		Responses: streamResponse(h.OpenAPI().Components.Schemas), Errors: []int{http.StatusServiceUnavailable},
	}, a.stream)

	get(h, "get-config", "/api/v1/config", a.getConfig, "Get the configuration that is at work")
	post(h, "reload", "/api/v1/reload", a.reload, "Load routes.yaml again",
		"With a fault in the file (422), what runs stays as it is.")
	get(h, "list-audit", "/api/v1/audit", a.listAudit, "List what was changed, newest first")

	get(h, "list-quarantine", "/api/v1/quarantine", a.listQuarantine, "List what came from Stripe and did not verify, newest first")
	post(h, "recheck-quarantine", "/api/v1/quarantine/recheck", a.recheckQuarantine, "Verify again with today's secrets",
		"What verifies is released: it goes the way of every event.")
	post(h, "drop-quarantine", "/api/v1/quarantine/drop", a.dropQuarantine, "Drop from the quarantine for good", "")
}

func get[I, O any](h huma.API, id, path string, f func(context.Context, *I) (*O, error), summary string) {
	huma.Register(h, huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary}, f)
}

func post[I, O any](h huma.API, id, path string, f func(context.Context, *I) (*O, error), summary, description string) {
	huma.Register(h, huma.Operation{
		OperationID: id, Method: http.MethodPost, Path: path, Summary: summary, Description: description,
	}, f)
}
