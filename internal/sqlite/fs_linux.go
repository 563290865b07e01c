package sqlite

import (
	"fmt"
	"os"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Filesystems on which SQLite's locks or its shared memory cannot be relied on (sqlite.org/wal.html, "all processes must
// be on the same host") are refused. Those that do not outlive the machine or the container get a warning.
var (
	refused = map[int64]string{
		unix.NFS_SUPER_MAGIC: "NFS", unix.SMB_SUPER_MAGIC: "SMB", unix.SMB2_SUPER_MAGIC: "SMB", unix.CIFS_SUPER_MAGIC: "SMB",
		unix.V9FS_MAGIC: "9P", unix.AFS_SUPER_MAGIC: "AFS", unix.CEPH_SUPER_MAGIC: "CephFS", unix.CODA_SUPER_MAGIC: "Coda",
		unix.NCP_SUPER_MAGIC: "NCP", unix.FUSE_SUPER_MAGIC: "FUSE",
	}
	fleeting = map[int64]string{
		unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	}
)

// checkFilesystem refuses a folder on a filesystem that cannot hold a journal.
func checkFilesystem(dir string, log *zap.Logger) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("its folder: %w", err)
	}
	kind := int64(s.Type) & 0xffffffff
	if name, bad := refused[kind]; bad {
		return fmt.Errorf("%s is on %s, where file locks and fsync cannot be relied on: put it on a local disk", dir, name)
	}
	if name, bad := fleeting[kind]; bad {
		log.Warn("the journal does not outlive this machine or container: its folder is on "+name, zap.String("path", dir))
	}
	return nil
}

// freeBytes is how much anybody but root may still write to the disk that path is on.
func freeBytes(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// allocate has the disk set aside size bytes for f.
func allocate(f *os.File, size int64) error {
	return unix.Fallocate(int(f.Fd()), 0, 0, size)
}
