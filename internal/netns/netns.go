// Package netns names, enters and removes network namespaces.
//
// A namespace has a name below /run/netns, as with iproute2, so that `ip netns exec NAME`
// works on every namespace of this package. No function leaves a descriptor of a namespace
// open, so a namespace exists as long as it has a name or a process.
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

// Dir is the directory where iproute2 keeps the names of network namespaces.
const Dir = "/run/netns"

// Path returns the path of the file to which the namespace name is bound.
func Path(name string) string { return filepath.Join(Dir, name) }

// Exists reports whether the file of name is bound to a namespace.
func Exists(name string) bool {
	var st unix.Statfs_t
	return unix.Statfs(Path(name), &st) == nil && st.Type == unix.NSFS_MAGIC
}

// New creates the namespace name with its loopback interface down. The caller stays in its
// own namespace. If the name exists, New returns fs.ErrExist.
func New(name string) error {
	if Exists(name) {
		return fmt.Errorf("make network namespace %s: %w", name, fs.ErrExist)
	}
	if err := Delete(name); err != nil { // a process that was killed within New or Delete has left an unbound file
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

// Name gives the network namespace of the process pid a name. If the name exists, it returns
// fs.ErrExist.
func Name(name string, pid int) error {
	if Exists(name) {
		return fmt.Errorf("name network namespace %s: %w", name, fs.ErrExist)
	}
	if err := Delete(name); err != nil { // an unbound file, as in New
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

// Delete removes the name. The kernel frees the namespace when its last process and file
// descriptor are gone. It returns nil if the name does not exist. It also removes a file
// that is not bound to a namespace, because New creates the file before it binds it.
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

// Do runs fn on a separate thread inside the namespace name. If name is empty, it runs fn in
// the caller's own namespace. Goroutines that fn starts do not run in the namespace. If the
// thread cannot return to its own namespace, it ends, so that no other goroutine runs on it.
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

// onThread runs fn on a locked thread, returns its error, and restores the thread's network
// namespace.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := vishnetns.Get()
		if err != nil {
			done <- fmt.Errorf("read own network namespace: %w", err)
			return
		}
		defer own.Close()
		defer func() {
			// If Set fails, the thread stays locked and therefore ends with this goroutine,
			// so no other goroutine runs in the wrong namespace.
			if vishnetns.Set(own) == nil {
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
