// Package atomicfile replaces files so that a reader, and the disk after a power cut, has
// the old content or the new, never a part of either.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces the content of the file path with data and its permission bits with mode,
// and returns when both are on disk. If it returns an error, the file still has its old
// content.
//
// The data is written to a temporary file beside path, which is synced and renamed: without
// the sync a power cut could leave path with no content. If the process is killed meanwhile,
// the temporary file remains. Its name begins with the name of path and ends in ".tmp".
func Write(path string, data []byte, mode os.FileMode) error {
	if err := write(path, data, mode); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

func write(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // mode 0600, so a secret is never readable by others
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename this does nothing
	_, err = f.Write(data)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// Rename moves a file or a directory, whose content the caller has synced, and returns when
// the new name is on disk.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// SyncDir returns when the names in a directory are on disk.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
