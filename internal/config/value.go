package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/goccy/go-yaml"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// scalarType is how a Go type is written as one YAML value. The errors of parse say what is right and do not quote what
// is wrong, since that may be a secret that was filled in.
type scalarType struct {
	parse   func(string) (any, error)
	json    string      // the JSON type, for editors, of a value that may stand without quotes, as 5 does; else ""
	pattern string      // for editors: what the text looks like
	min     json.Number // for editors: of a number, as max
	max     json.Number
}

var scalarTypes = map[reflect.Type]scalarType{
	reflect.TypeFor[string]():            {parse: func(s string) (any, error) { return s, nil }},
	reflect.TypeFor[proxy.Answer]():      {parse: func(s string) (any, error) { return proxy.Answer(s), nil }},
	reflect.TypeFor[proxy.Secret]():      {parse: func(s string) (any, error) { return proxy.Secret(s), nil }},
	reflect.TypeFor[bool]():              {parse: parseBool, json: "boolean", pattern: `^(true|false)$`},
	reflect.TypeFor[int]():               {parse: parseCount, json: "integer", pattern: `^[0-9]+$`},
	reflect.TypeFor[int64]():             {parse: parseSize, json: "integer", pattern: `^[0-9.]+ *([KkMmGgTt]i?)?[Bb]?$`},
	reflect.TypeFor[float64]():           {parse: parseRate, pattern: `^[0-9.]+/(s|m|h)$`},
	reflect.TypeFor[time.Duration]():     {parse: parseDuration, pattern: `^([0-9.]+(ns|us|µs|ms|s|m|h))+$|^0$`},
	reflect.TypeFor[proxy.StatusRange](): {parse: parseStatus, json: "integer", pattern: `^2[0-9][0-9](-2[0-9][0-9])?$`, min: "200", max: "299"},
	reflect.TypeFor[netip.Prefix]():      {parse: parsePrefix, pattern: `^[0-9a-fA-F.:]+(/[0-9]+)?$`},
	reflect.TypeFor[stripeIP]():          {parse: parseStripeIP, pattern: `^default$|^[0-9a-fA-F.:]+(/[0-9]+)?$`},
}

// stripeIP is one element of stripe_ips.
type stripeIP struct {
	netip.Prefix // not valid: default, the list that comes with the gateway
}

func parseStripeIP(s string) (any, error) {
	if s == "default" {
		return stripeIP{}, nil
	}
	p, err := parsePrefix(s)
	if err != nil {
		return nil, errors.New("must be default, an address or a network, such as 192.0.2.7 or 198.51.100.0/24")
	}
	return stripeIP{p.(netip.Prefix)}, nil
}

func parseBool(s string) (any, error) {
	switch s {
	case "true", "True", "TRUE":
		return true, nil
	case "false", "False", "FALSE":
		return false, nil
	}
	return nil, errors.New("must be true or false")
}

func parseCount(s string) (any, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return nil, errors.New("must be a whole number")
	}
	return int(n), nil
}

func parseSize(s string) (any, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return nil, errors.New("must be a size, such as 1MiB, 512KiB, 1GB or a number of bytes")
	}
	return int64(n), nil
}

// parseRate returns how many a second: 10 for 600/m.
func parseRate(s string) (any, error) {
	number, unit, ok := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	per, known := map[string]float64{"s": 1, "m": 60, "h": 3600}[strings.TrimSpace(unit)]
	if !ok || err != nil || !known || !(n > 0) || math.IsInf(n, 0) {
		return nil, errors.New("must be a rate above 0, such as 50/s, 600/m or 10/h")
	}
	return n / per, nil
}

var days = regexp.MustCompile(`^([0-9]{1,6})(d|w)$`)

// parseDuration reads a duration as Go writes it, 1h30m, and tells who writes 7d that it is 168h.
func parseDuration(s string) (any, error) {
	d, err := time.ParseDuration(s)
	if err == nil {
		return d, nil
	}
	if m := days.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1])
		return nil, fmt.Errorf("must be in hours, minutes and seconds: write %dh", n*map[string]int{"d": 24, "w": 168}[m[2]])
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return nil, errors.New("must be a duration with its unit, such as 30s, 5m or 1h30m")
	}
	return nil, errors.New("must be a duration, such as 30s, 5m or 1h30m")
}

func parseStatus(s string) (any, error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, errA := strconv.Atoi(strings.TrimSpace(from))
	b, errB := strconv.Atoi(strings.TrimSpace(to))
	if errors.Join(errA, errB) != nil {
		return nil, errors.New("must be a status or a range, such as 204 or 200-299")
	}
	return proxy.StatusRange{From: a, To: b}, nil
}

func parsePrefix(s string) (any, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil, errors.New("must be an address or a network, such as 192.0.2.7 or 10.0.0.0/8")
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 { // clients are compared by their IPv4 address
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// YAML returns the configuration at work as a routes.yaml: references and defaults are filled in, what is empty is left
// out. Secrets are ***, and so is what may be one: the user and the query of a URL.
func (f *File) YAML() string {
	b, err := yaml.MarshalWithOptions(rendered(reflect.ValueOf(f.doc)), yaml.IndentSequence(true))
	if err != nil {
		return "# " + err.Error()
	}
	return string(b)
}

// rendered turns v into what the YAML encoder prints with keys in the order of the structs and values as a person writes
// them, such as 1MiB; nil for what is empty.
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

// flow is a list that is written on one line: [invoice.*, charge.*].
type flow []any

// MarshalYAML implements yaml.BytesMarshaler.
func (f flow) MarshalYAML() ([]byte, error) {
	return yaml.MarshalWithOptions([]any(f), yaml.Flow(true))
}

// renderedScalar writes a value as its parser reads it; nil for what is empty.
func renderedScalar(v any) any {
	if ip, ok := v.(stripeIP); ok && !ip.IsValid() {
		return "default"
	}
	if reflect.ValueOf(v).IsZero() {
		return nil
	}
	switch x := v.(type) {
	case string:
		if u, err := url.Parse(x); err == nil && u.Scheme != "" && u.Host != "" {
			return masked(x, private(x))
		}
		return masked(x, nil)
	case bool, int:
		return x
	case int64:
		return size(x)
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64) + "/s"
	case time.Duration:
		return shortDuration(x)
	case proxy.StatusRange:
		if x.From == x.To {
			return x.From
		}
		return fmt.Sprintf("%d-%d", x.From, x.To)
	}
	return fmt.Sprint(v) // a Secret prints as ***
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

// size writes a number of bytes in the largest binary unit that divides it: 1MiB, but 1048577.
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
