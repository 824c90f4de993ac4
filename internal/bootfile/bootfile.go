// Package bootfile opens files that end with the boot of the machine: they are on a tmpfs. It
// refuses a file that another user may have written or may still change.
package bootfile

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Boot returns the id of this boot of the machine. No other boot has it (random(4)).
func Boot() (id [16]byte, err error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return id, fmt.Errorf("read the id of this boot: %w", err)
	}
	digits, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(digits) != len(id) {
		return id, fmt.Errorf("read the id of this boot: %s has %q", path, text)
	}
	return [16]byte(digits), nil
}

// Open opens a file for reading and writing, and creates it empty if it is missing. Until the file
// and all its mappings are closed, another Open of it is an error.
//
// It checks the file that it has opened, not the path, so that nobody can exchange the file after
// the check. The file must be a regular file on a tmpfs, with one name, that belongs to the
// effective user of the process and that nobody else may read or write. Its directory must not let
// others replace the file. An error says what the operator can do.
func Open(path string) (*os.File, error) {
	if err := checkDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := open(path, 0)
	created := errors.Is(err, fs.ErrNotExist)
	if created {
		f, err = open(path, os.O_CREATE|os.O_EXCL)
	}
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: remove it, or configure the path that it leads to", path)
	}
	if err != nil {
		return nil, err
	}
	if err = check(f); err != nil {
		if created {
			err = errors.Join(err, os.Remove(path))
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// open opens a file. Without O_NONBLOCK the open of a device or of a FIFO could wait.
func open(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|flags, 0o600)
}

// checkDir checks the directory of a file. Whoever can rename in it can put an older file of ours
// in the file's place.
func checkDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("the directory %s belongs to user %d, who can replace the files in it: choose a directory of user %d or of root", dir, st.Uid, os.Geteuid())
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("others may replace the files in directory %s, which has mode %04o: run chmod go-w on it, or choose another directory", dir, st.Mode&0o7777)
	}
	return nil
}

func check(f *os.File) error {
	path := f.Name()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &system); err != nil {
		return &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	switch mode := st.Mode & 0o7777; {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%s is not a regular file: remove it, or configure another path", path)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, not to user %d of this process, so its content may be made up: remove it", path, st.Uid, os.Geteuid())
	case mode&^0o600 != 0:
		return fmt.Errorf("%s has mode %04o, not 0600, so others may have read or changed it: remove it", path, mode)
	case st.Nlink > 1:
		return fmt.Errorf("%s has %d names (hard links), so it can be changed under another one: remove the file", path, st.Nlink)
	case system.Type != unix.TMPFS_MAGIC:
		return fmt.Errorf("%s is on a file system of type %#x, not on a tmpfs, so it would outlive this boot: configure a path on a tmpfs, such as /dev/shm/palisade", path, system.Type)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s is in use by another process: %w", path, err)
	}
	// The process that had the lock may have replaced the file meanwhile.
	var now unix.Stat_t
	if err := unix.Lstat(path, &now); err != nil || now.Ino != st.Ino || now.Dev != st.Dev {
		return fmt.Errorf("%s was replaced by another process: try again", path)
	}
	return nil
}
