package conditions

import (
	"strconv"
	"time"
)

// Count prints 1234567 as 1,234,567.
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// Plural returns "1 event" or "1,234 events".
func Plural(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + one + "s"
}

// Clock is a time as a sentence says it: 14:03, with the date when it is not today's.
func Clock(t, now time.Time, zone *time.Location) string {
	local, now := t.In(zone), now.In(zone)
	switch {
	case local.YearDay() == now.YearDay() && local.Year() == now.Year():
		return local.Format("15:04")
	case now.Sub(local).Abs() < 300*24*time.Hour:
		return local.Format("2 Jan 15:04")
	}
	return local.Format("2 Jan 2006")
}

func (s *Snapshot) clock(t time.Time) string {
	if s.Zone == nil {
		return Clock(t, s.Now, time.UTC) + " UTC"
	}
	return Clock(t, s.Now, s.Zone)
}
