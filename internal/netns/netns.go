// Package netns names, enters and removes network namespaces.
//
// A namespace is known by its name below /run/netns, as iproute2 knows it, so that
// `ip netns exec NAME` works on everything this package makes. Nothing here keeps a
// handle open: a namespace lives as long as its name, a process or a device in it.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Dir is where iproute2 keeps the names of network namespaces.
const Dir = "/run/netns"

// Path returns the file that stands for the namespace name.
func Path(name string) string { return filepath.Join(Dir, name) }

// Exists reports whether name is a namespace now.
func Exists(name string) bool {
	var st unix.Statfs_t
	return unix.Statfs(Path(name), &st) == nil && st.Type == unix.NSFS_MAGIC
}

// New makes the namespace name with its loopback interface down. The caller's own
// namespace is left as it was. A name that is in use is an error.
func New(name string) error {
	if Exists(name) {
		return fmt.Errorf("make network namespace %s: %w", name, fs.ErrExist)
	}
	if err := Delete(name); err != nil { // what was killed half-way through New or Delete
		return err
	}
	if err := shareDir(); err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return onThread(func() error {
		h, err := vishnetns.NewNamed(name)
		if err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
		return h.Close()
	})
}

// Name gives the network namespace of a process a name, which it must not have yet.
func Name(name string, pid int) error {
	if Exists(name) {
		return fmt.Errorf("name network namespace %s: %w", name, fs.ErrExist)
	}
	if err := Delete(name); err != nil { // what was killed half-way
		return err
	}
	if err := shareDir(); err != nil {
		return fmt.Errorf("name network namespace %s: %w", name, err)
	}
	f, err := os.OpenFile(Path(name), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("name network namespace %s: %w", name, err)
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/net", pid), Path(name), "", unix.MS_BIND, ""); err != nil {
		os.Remove(Path(name))
		return fmt.Errorf("name network namespace %s: %w", name, err)
	}
	return nil
}

// Delete removes the name. The kernel frees the namespace when its last process and
// file descriptor are gone. A name that does not exist is no error, nor is one that stands
// for nothing: New makes the file before the namespace is bound to it.
func Delete(name string) error {
	err := vishnetns.DeleteNamed(name)
	if errors.Is(err, unix.EINVAL) {
		err = os.Remove(Path(name))
	}
	if errors.Is(err, unix.EBUSY) {
		err = removeBelow(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	return nil
}

// Do runs fn on a thread of its own inside the namespace name; the empty name is the
// caller's own namespace. Goroutines that fn starts do not run there. If the thread
// cannot be brought back it is ended with its goroutine, never reused.
func Do(name string, fn func() error) error {
	if name == "" {
		return fn()
	}
	return onThread(func() error {
		h, err := vishnetns.GetFromPath(Path(name))
		if err != nil {
			return fmt.Errorf("open network namespace %s: %w", name, err)
		}
		defer h.Close()
		if err := vishnetns.Set(h); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, err)
		}
		return fn()
	})
}

// onThread runs fn on a locked thread and restores that thread's namespace behind it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := vishnetns.Get()
		if err != nil {
			done <- fmt.Errorf("read own network namespace: %w", err)
			return
		}
		defer home.Close()
		defer func() {
			// A locked goroutine that ends takes its thread with it, so a
			// failed return to home can never leak a foreign namespace.
			if vishnetns.Set(home) == nil {
				runtime.UnlockOSThread()
			}
		}()
		done <- fn()
	}()
	return <-done
}

// List returns the names below Dir that begin with prefix.
func List(prefix string) ([]string, error) {
	matches, err := filepath.Glob(filepath.Join(Dir, prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	names := make([]string, 0, len(matches))
	for _, m := range matches {
		if _, err := os.Lstat(m); err == nil {
			names = append(names, filepath.Base(m))
		}
	}
	return names, nil
}
