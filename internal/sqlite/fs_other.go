//go:build unix && !linux

package sqlite

import (
	"os"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// checkFilesystem knows only Linux's filesystems.
func checkFilesystem(string, *zap.Logger) error { return nil }

// freeBytes is what an ordinary user may still write on the disk of path.
func freeBytes(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// allocate gives f that many bytes of disk, by writing them.
func allocate(f *os.File, size int64) error {
	_, err := f.Write(make([]byte, size))
	return err
}
