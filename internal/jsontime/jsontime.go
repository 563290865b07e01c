// Package jsontime is a time as the API writes it.
package jsontime

import (
	"encoding/json"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Time is RFC 3339 in UTC with milliseconds in JSON, such as "2026-11-21T14:03:12.345Z", and null for the zero time.
type Time struct{ time.Time }

// At returns t as the API writes it.
func At(t time.Time) Time { return Time{t} }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(t.UTC().Format("2006-01-02T15:04:05.000Z"))
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*t = Time{}
		return nil
	}
	return t.Time.UnmarshalJSON(b)
}

// Schema describes it for the OpenAPI document.
func (Time) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Nullable: true}
}

var _ huma.SchemaProvider = Time{}
