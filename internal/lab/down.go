package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/internal/instance"
	"palisade/internal/netns"
	"palisade/internal/process"
)

// Down stops a lab and removes everything that belongs to it. It is no error if the lab is incomplete or
// does not exist.
func Down(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("a lab needs network namespaces: run this as root")
	}
	release, err := lock(name)
	if err != nil {
		return err
	}
	defer release()
	if _, err := (&Lab{Name: name}).clear(ctx); err != nil {
		return fmt.Errorf("take lab %s down: %w", name, err)
	}
	return nil
}

// clear removes everything whose name contains the lab's name, without reading lab.json, and reports
// whether it found anything. It kills the supervisor first, because the supervisor would restart the
// daemons, and then the daemons, because a node would restart its instances.
func (l *Lab) clear(ctx context.Context) (found bool, err error) {
	if err := l.kill(ctx, supervisorName); err != nil {
		return found, err
	}
	supervises := func(args []string) bool { return slices.Equal(args, l.superviseArgs()) }
	if err := l.killProcesses(ctx, supervises); err != nil {
		return found, err
	}
	for _, name := range l.pidFiles() {
		found = true
		if err := l.kill(ctx, name); err != nil {
			return found, err
		}
	}
	if err := l.killProcesses(ctx, l.owns); err != nil {
		return found, err
	}
	namespaces, err := netns.List(l.namespace(""))
	if err != nil {
		return found, err
	}
	found = found || len(namespaces) > 0
	if err := killInside(ctx, namespaces); err != nil {
		return found, err
	}
	if err := l.removeCgroups(ctx, "*"); err != nil {
		return found, err
	}
	for _, ns := range namespaces {
		if err := netns.Delete(ns); err != nil {
			return found, err
		}
	}
	if err := l.removeAttached(); err != nil {
		return found, err
	}
	arenas, _ := filepath.Glob(l.arena("*"))
	for _, path := range append(arenas, l.sockets(), l.dir()) {
		if _, err := os.Lstat(path); err == nil {
			found = true
		}
		if err := os.RemoveAll(path); err != nil {
			return found, err
		}
	}
	// Remove the parent directories, which are empty if this was the last lab.
	for _, dir := range []string{labsDir, filepath.Dir(labsDir), runDir} {
		unix.Rmdir(dir)
	}
	return found, nil
}

// removeAttached removes the devices that `palisade attach` has put into namespaces outside the lab.
// The aliases of these devices name the lab.
func (l *Lab) removeAttached() error {
	others, err := netns.List("")
	if err != nil {
		return err
	}
	for _, ns := range others {
		var ours []string
		err := netns.Do(ns, func() error {
			links, err := netns.Dump(netlink.LinkList)
			for _, link := range links {
				if strings.HasSuffix(link.Attrs().Alias, instance.AliasOf("", l.namespace(""))) {
					ours = append(ours, link.Attrs().Name)
				}
			}
			return err
		})
		if err != nil && netns.Exists(ns) { // it may be deleted at any moment
			return fmt.Errorf("look for devices in namespace %s: %w", ns, err)
		}
		for _, device := range ours {
			if err := instance.Unplug(ns, instance.NIC{Device: device, Foreign: true}); err != nil {
				return err
			}
		}
	}
	return nil
}

// pidFiles returns the names of the daemons that have a pid file.
func (l *Lab) pidFiles() []string {
	paths, _ := filepath.Glob(l.pidFile("*"))
	var names []string
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".pid"))
	}
	return names
}

// owns reports whether args are the arguments of a daemon of the lab, or of a command that names the
// configuration of one of its nodes. The method clear uses it to find processes without a pid file, whose
// parent was killed before it wrote the file.
func (l *Lab) owns(args []string) bool {
	if slices.Equal(args, l.doorArgs()) || slices.Equal(args, l.superviseArgs()) {
		return true
	}
	config := slices.Index(args, "--config") + 1
	return config > 0 && config < len(args) && filepath.Dir(args[config]) == l.dir()
}

// killProcesses kills the processes named palisade whose arguments the function match accepts.
func (l *Lab) killProcesses(ctx context.Context, match func(args []string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	ids, err := l.processes(match)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := process.Kill(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups kills the processes in those cgroups of the lab that match pattern, and removes these
// cgroups. It also removes the lab's own cgroup if that is empty then. It retries for stopTimeout,
// because the kernel releases a cgroup a moment after its last process has ended.
func (l *Lab) removeCgroups(ctx context.Context, pattern string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for {
		var left error
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			parents, _ := filepath.Glob(filepath.Join(root, l.cgroup()))
			for _, parent := range parents {
				groups, _ := filepath.Glob(filepath.Join(parent, pattern, "cgroup.procs"))
				for _, procs := range groups {
					if err := removeCgroup(filepath.Dir(procs)); err != nil {
						left = err
					}
				}
				unix.Rmdir(parent)
			}
		}
		if left == nil {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return left
		}
	}
}

func removeCgroup(dir string) error {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	for field := range strings.FieldsSeq(string(procs)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 && pid != os.Getpid() {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}
