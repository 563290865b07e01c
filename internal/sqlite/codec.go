package sqlite

import (
	"encoding/binary"
	"errors"
	"net/http"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// States as the tables hold them.
const (
	statePending   = 1
	stateDelivered = 2
	stateFailed    = 3
	stateIgnored   = 4 // of events only
	stateUnrouted  = 5 // of events only: Ignored, reason no_route; it has its own retention
)

func stateCode(s proxy.State, reason string) int64 {
	switch s {
	case proxy.Pending:
		return statePending
	case proxy.Delivered:
		return stateDelivered
	case proxy.Failed:
		return stateFailed
	case proxy.Ignored:
		if reason == proxy.ReasonNoRoute {
			return stateUnrouted
		}
		return stateIgnored
	}
	return 0
}

func stateOf(code int64) proxy.State {
	switch code {
	case statePending:
		return proxy.Pending
	case stateDelivered:
		return proxy.Delivered
	case stateFailed:
		return proxy.Failed
	case stateIgnored, stateUnrouted:
		return proxy.Ignored
	}
	return ""
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

var errHeader = errors.New("stored headers are damaged")

// appendHeader encodes h as names and values, each with its length before it, so that every byte comes back as it was.
func appendHeader(b []byte, h http.Header) []byte {
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for name, values := range h {
		text(name)
		b = binary.AppendUvarint(b, uint64(len(values)))
		for _, v := range values {
			text(v)
		}
	}
	return b
}

func decodeHeader(b []byte) (http.Header, error) {
	if len(b) == 0 {
		return nil, nil
	}
	bad := false
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)) {
			bad = true
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() string {
		n := number()
		if bad || n > uint64(len(b)) {
			bad = true
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	h := http.Header{}
	for len(b) > 0 && !bad {
		name := text()
		n := number()
		values := make([]string, 0, min(n, 16))
		for ; n > 0 && !bad; n-- {
			values = append(values, text())
		}
		h[name] = values
	}
	if bad {
		return nil, errHeader
	}
	return h, nil
}
