//go:build race

package sqlite

import std "flag"

// Under the race detector SQLite, which is Go here, is ten times slower: the model is compared over fewer runs, and
// disks that are to be filled are smaller.
func init() {
	slow = true
	if err := std.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
}
