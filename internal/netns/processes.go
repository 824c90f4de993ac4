package netns

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"palisade/internal/process"
)

// Processes returns the processes whose network namespace is one of names, except the
// calling process. It ignores names that do not exist.
func Processes(names ...string) ([]process.ID, error) {
	type inode struct{ dev, ino uint64 }
	wanted := make(map[inode]bool, len(names))
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Stat(Path(name), &st); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("network namespace %s: %w", name, err)
		}
		wanted[inode{st.Dev, st.Ino}] = true
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	return process.List(func(pid int) bool {
		var st unix.Stat_t
		return unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) == nil && wanted[inode{st.Dev, st.Ino}]
	})
}
