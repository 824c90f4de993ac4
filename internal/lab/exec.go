package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// Exec replaces this process by argv. The command runs in an instance, if who is its id or name, or in the
// network namespace of a node, laptop, stranger, internet (the router) or underlay (the switch between
// the nodes). Exec returns only if it fails.
func (l *Lab) Exec(ctx context.Context, who string, argv []string) error {
	if len(argv) == 0 {
		return errors.New("no command to run")
	}
	if !l.answers() {
		// Let another process start the supervisor: a supervisor that this process started would become
		// a child of argv, which does not wait for its children. An error is ignored, because argv
		// needs no supervisor.
		_, _ = l.palisade(ctx, "lab", "env", "--name", l.Name)
	}
	if slices.Contains(l.hosts(), who) {
		path, err := exec.LookPath(argv[0])
		if err != nil {
			return err
		}
		// unix.Exec keeps the namespaces of the calling thread.
		return netns.Do(l.namespace(who), func() error {
			if err := l.withoutResolver(); err != nil {
				return err
			}
			return unix.Exec(path, argv, os.Environ())
		})
	}
	// If who is an id, it gives the name of the namespace, and the node need not answer.
	namespace := l.namespace(who)
	if !instanceID.MatchString(who) || !netns.Exists(namespace) {
		instance, err := l.FindInstance(ctx, who)
		if err != nil {
			return err
		}
		namespace = instance.Namespace
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{"palisade", "instance", "exec", namespace, "--"}, argv...)
	return unix.Exec(self, args, os.Environ())
}

var instanceID = regexp.MustCompile(`^i-[0-9a-f]+$`)

// withoutResolver gives the calling thread a mount namespace whose /etc/resolv.conf names no server. The
// lab cannot reach the machine's name server, and programs would wait for its answer: nmap waits 13 s
// before each scan.
func (l *Lab) withoutResolver() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const file = "/etc/resolv.conf"
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unix.Mount(l.path("resolv.conf"), file, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("replace %s: %w", file, err)
	}
	return nil
}

// FindInstance returns the instance with the id or the name who. It returns an error if several instances
// have that name.
func (l *Lab) FindInstance(ctx context.Context, who string) (InstanceStatus, error) {
	known := l.hosts()
	var named []InstanceStatus
	for _, instance := range l.Status(ctx).Instances {
		if instance.ID == who {
			return instance, nil
		}
		if instance.Name == who && who != "" {
			named = append(named, instance)
		}
		known = append(known, instance.ID)
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return InstanceStatus{}, fmt.Errorf("lab %s has no instance or host %q; it has %s", l.Name, who, strings.Join(known, ", "))
	}
	return InstanceStatus{}, fmt.Errorf("%d instances have the name %q; use the id", len(named), who)
}
