//go:build breakwater_ack_early

package sqlite

import "time"

const (
	ackEarly      = true
	ackEarlyDelay = 20 * time.Millisecond
)
