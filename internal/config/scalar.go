package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// scalarType is a Go type that is written as one YAML value. parse's errors say what is right and do not quote what is
// wrong, as that may be a secret that was filled in.
type scalarType struct {
	parse   func(string) (any, error)
	json    string // JSON type of a value that is not written as a text, "" where it always is
	pattern string // that a text matches, for editors
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
	reflect.TypeFor[proxy.StatusRange](): {parse: parseStatus, json: "integer", pattern: `^[2-5][0-9][0-9](-[2-5][0-9][0-9])?$`},
	reflect.TypeFor[netip.Prefix]():      {parse: parsePrefix, pattern: `^[0-9a-fA-F.:]+(/[0-9]+)?$`},
	reflect.TypeFor[stripeIP]():          {parse: parseStripeIP, pattern: `^default$|^[0-9a-fA-F.:]+(/[0-9]+)?$`},
}

// stripeIP is one element of stripe_ips.
type stripeIP struct {
	netip.Prefix // invalid: the list that comes with the gateway
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

// parseRate returns how many a second.
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

// parseDuration reads a duration as Go writes it.
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
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil, errors.New("must be an address or a network, such as 192.0.2.7 or 10.0.0.0/8")
	}
	return p.Masked(), nil
}
