package sqlite

// oldest remembers for each backend a number below which no event is Pending.
type oldest struct{}

func (o *oldest) lower(backend string, seq int64) {}
