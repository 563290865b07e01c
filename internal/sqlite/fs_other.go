//go:build unix && !linux

package sqlite

import (
	"os"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// checkFilesystem refuses nothing: the filesystems that it would refuse are known by their numbers on Linux only.
func checkFilesystem(string, *zap.Logger) error { return nil }

// freeBytes is how much anybody but root may still write to the disk that path is on.
func freeBytes(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// allocate has the disk set aside size bytes for f, by writing them.
func allocate(f *os.File, size int64) error {
	_, err := f.Write(make([]byte, size))
	return err
}
