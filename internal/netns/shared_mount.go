package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// shareDir makes Dir a shared mount, as `ip netns add` does before it creates the first name
// (ip-netns(8)). If we did not, a later `ip netns add` would mount Dir over itself, and the
// names that exist then could be seen but not removed.
func shareDir() error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return err
	}
	share := func() error { return unix.Mount("", Dir, "", unix.MS_SHARED|unix.MS_REC, "") }
	err := share()
	if errors.Is(err, unix.EINVAL) { // Dir is not a mount point yet
		if err = unix.Mount(Dir, Dir, "", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", Dir, err)
	}
	return nil
}

// removeBelow removes a name that no path reaches, because another mount of Dir hides it. It
// unmounts the hiding mounts in a new mount namespace and removes the file there. That
// detaches the name's mounts in all mount namespaces (mount_namespaces(7), "Restrictions").
func removeBelow(name string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with this goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("make a mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
			for _, path := range []string{Dir, Path(name)} {
				for unix.Unmount(path, unix.MNT_DETACH) == nil {
				}
			}
			if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}()
	}()
	return <-done
}
