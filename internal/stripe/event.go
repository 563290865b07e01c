package stripe

// IsTestID reports whether id is the constant id of the dashboard's test webhook (evt_00000000000000): "evt_" and then
// nothing but zeros.
func IsTestID(id string) bool {
	const prefix = "evt_"
	if len(id) <= len(prefix) || id[:len(prefix)] != prefix {
		return false
	}
	for _, c := range id[len(prefix):] {
		if c != '0' {
			return false
		}
	}
	return true
}
