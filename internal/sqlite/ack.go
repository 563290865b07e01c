//go:build !breakwater_ack_early

package sqlite

// ackEarly answers before the commit. It exists so that the crash test can show that it would notice.
const (
	ackEarly      = false
	ackEarlyDelay = 0
)
