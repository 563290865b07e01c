package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/goccy/go-yaml"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// YAML returns the configuration as it is at work, as a routes.yaml: references filled in, defaults in their places,
// what is empty left out. Secrets are ***, and so is what may be one: user and query of a URL.
func (f *File) YAML() string {
	b, err := yaml.MarshalWithOptions(rendered(reflect.ValueOf(f.doc)), yaml.IndentSequence(true))
	if err != nil {
		return "# " + err.Error()
	}
	return string(b)
}

// rendered turns v into what the YAML encoder prints in our order and our notation; nil for what is empty.
func rendered(v reflect.Value) any {
	if _, ok := scalarTypes[v.Type()]; ok {
		return renderedScalar(v.Interface())
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		if b, ok := v.Elem().Interface().(bool); ok {
			return b
		}
		return rendered(v.Elem())
	case reflect.Struct:
		var out yaml.MapSlice
		for i := range v.NumField() {
			name := v.Type().Field(i).Tag.Get("yaml")
			if value := rendered(v.Field(i)); value != nil {
				out = append(out, yaml.MapItem{Key: name, Value: value})
			}
		}
		if out == nil {
			return nil
		}
		return out
	case reflect.Map:
		var out yaml.MapSlice
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			out = append(out, yaml.MapItem{Key: k.String(), Value: rendered(v.MapIndex(k))})
		}
		if out == nil {
			return nil
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return nil
		}
		out := make([]any, v.Len())
		for i := range out {
			out[i] = rendered(v.Index(i))
		}
		if scalarTypes[v.Type().Elem()].parse != nil {
			return flow(out)
		}
		return out
	}
	return nil
}

// flow is a list that stands on one line.
type flow []any

// MarshalYAML implements yaml.BytesMarshaler.
func (f flow) MarshalYAML() ([]byte, error) {
	return yaml.MarshalWithOptions([]any(f), yaml.Flow(true))
}

// renderedScalar writes a value as its parser reads it.
func renderedScalar(v any) any {
	switch x := v.(type) {
	case string:
		if x == "" {
			return nil
		}
		return withoutSecrets(x)
	case proxy.Secret:
		if x == "" {
			return nil
		}
		return x.String()
	case bool:
		if !x {
			return nil
		}
		return x
	case int:
		return x
	case int64:
		return size(x)
	case float64:
		if x == 0 {
			return nil
		}
		return strconv.FormatFloat(x, 'f', -1, 64) + "/s"
	case time.Duration:
		if x == 0 {
			return nil
		}
		return shortDuration(x)
	case proxy.StatusRange:
		if x.From == x.To {
			return x.From
		}
		return fmt.Sprintf("%d-%d", x.From, x.To)
	case netip.Prefix:
		return x.String()
	case stripeIP:
		if !x.IsValid() {
			return "default"
		}
		return x.String()
	}
	if text := fmt.Sprint(v); text != "" {
		return text
	}
	return nil
}

// withoutSecrets masks what may be secret in a URL.
func withoutSecrets(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return text
	}
	if u.User != nil {
		u.User = url.User("***")
	}
	if u.RawQuery != "" {
		u.RawQuery = "***"
	}
	return strings.ReplaceAll(u.String(), "%2A%2A%2A", "***")
}

func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// size writes whole binary units where nothing is lost.
func size(n int64) string {
	for _, u := range []struct {
		name string
		of   int64
	}{{"GiB", humanize.GiByte}, {"MiB", humanize.MiByte}, {"KiB", humanize.KiByte}} {
		if n >= u.of && n%u.of == 0 {
			return fmt.Sprintf("%d%s", n/u.of, u.name)
		}
	}
	return strconv.FormatInt(n, 10)
}
