// Package instance runs the instances behind the ports of the switch. An instance is a set of
// namespaces (user, net, mount, pid, ipc, uts) and a cgroup, with its own init, which runs the
// services of its image. It has user ids of its own: its root is an unprivileged user of the node
// (ids.go).
//
// The init of an instance is never a child of the daemon. The daemon starts a launcher, which starts
// init and ends. So instances keep running when the daemon dies, and the next daemon adopts them. The
// calls in the life of an instance, in their order:
//
//	Prepare   makes the user and the network namespace and gives the network namespace a name;
//	          the caller then moves the devices into the network namespace
//	Boot      configures the devices, starts init, and returns when its services listen
//	Configure adds or changes a device of a running instance; Unplug removes one
//	Adopt     finds the init of an instance that an earlier daemon booted
//	Kill      kills every process of the instance
//	Remove    removes cgroup, namespace and directory
//
// The binary re-executes itself in stages (reexec.go): namespace and hold (ids.go); launch,
// setup (root.go), confine (confine.go), init (init.go, service.go); enter and inside (exec.go);
// and guard (guard.go), which bounds the kernel memory of the instance's sockets. Lookup finds an image
// (image.go). This package imports no switch, no firewall and no API.
package instance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/process"
)

// bootTimeout bounds the time from the start of the launcher until the services listen.
const bootTimeout = 5 * time.Second

// ErrGone means that the init of an instance has ended.
var ErrGone = process.ErrGone

// A Spec describes an instance. It is not changed after Boot.
type Spec struct {
	Namespace string // name below /run/netns: "lab-i-cfd732a6"
	ID        string // "i-cfd732a6"
	Hostname  string // default: ID
	Image     string // an AMI id; see Lookup

	NICs []NIC // the caller has already moved their devices into Namespace

	Boot           uint64   // number of this boot; the caller counts the boots
	AuthorizedKeys []string // lines of root's authorized_keys
	UserData       []byte   // run as a script at boot if it begins with "#!"

	Dir          string // absolute path of the instance's directory on the node, with pid file and boot log
	CgroupPrefix string // parent of the instance's cgroup; "": no cgroup, and no limits
}

// address returns the first address of the instance, or the zero Addr if it has none.
func (s Spec) address() netip.Addr {
	if len(s.NICs) == 0 {
		return netip.Addr{}
	}
	return s.NICs[0].Addresses[0].Addr()
}

func (s Spec) hostname() string {
	if s.Hostname == "" {
		return s.ID
	}
	return s.Hostname
}

func (s Spec) pidFile() string  { return filepath.Join(s.Dir, "init.json") }
func (s Spec) rootDir() string  { return filepath.Join(s.Dir, "root") }
func (s Spec) bootLog() string  { return filepath.Join(s.Dir, "boot.log") }
func (s Spec) endFile() string  { return filepath.Join(s.Dir, "ended") }
func (s Spec) bootFile() string { return filepath.Join(s.Dir, "boot") }

func (s Spec) validate() error {
	switch {
	case s.Namespace == "" || strings.ContainsAny(s.Namespace, "/ ") || s.Namespace[0] == '.':
		return fmt.Errorf("instance %s: %q cannot name a network namespace", s.ID, s.Namespace)
	case s.ID == "":
		return errors.New("the instance has no id")
	case !filepath.IsAbs(s.Dir):
		return fmt.Errorf("instance %s: directory %q is not absolute", s.ID, s.Dir)
	case slices.ContainsFunc(s.NICs, func(n NIC) bool { return n.Device == "" || len(n.Addresses) == 0 }):
		return fmt.Errorf("instance %s: a NIC has no device name or no address", s.ID)
	case strings.ContainsAny(s.CgroupPrefix, "/") || strings.HasPrefix(s.CgroupPrefix, "."):
		return fmt.Errorf("instance %s: %q cannot name a cgroup", s.ID, s.CgroupPrefix)
	}
	return nil
}

// Prepare makes the network namespace, with only loopback in it, and the instance's directory. It
// keeps a namespace and a directory that exist, but replaces a namespace of an earlier release if no
// process runs in it.
func Prepare(s Spec) error {
	if err := s.validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(s.rootDir(), 0o700); err != nil {
		return fmt.Errorf("prepare instance %s: %w", s.ID, err)
	}
	if err := removeEarlier(s.Namespace); err != nil {
		return fmt.Errorf("prepare instance %s: %w", s.ID, err)
	}
	if !netns.Exists(s.Namespace) {
		if err := makeNamespace(s.Namespace); err != nil {
			return fmt.Errorf("prepare instance %s: %w", s.ID, err)
		}
	}
	MakeRoomForNeighbours() // an error is ignored: a lab has already raised the limits, or reported why it cannot
	if err := netns.Do(s.Namespace, configureNamespace); err != nil {
		return fmt.Errorf("prepare instance %s: %w", s.ID, err)
	}
	return nil
}

// An Instance is a running init. Its owner, the fleet of the node, closes it. It has no mutable
// state, so its methods may be called from any goroutine.
type Instance struct {
	spec   Spec
	handle *process.Handle
	booted uint64
}

// Boot configures the devices, starts init and returns when the services listen. If it fails, no
// process of the instance runs afterwards. It may be called again after a crash at any point of an
// earlier call.
func Boot(ctx context.Context, s Spec) (*Instance, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	if id, err := process.ReadFile(s.pidFile()); err == nil && id.Alive() {
		return nil, fmt.Errorf("boot instance %s: process %d is its init already", s.ID, id.PID)
	}
	// If an earlier daemon was killed during Boot, an init without a pid file may still run. It would
	// hold the ports that the new init needs.
	if err := killAll(s); err != nil {
		return nil, fmt.Errorf("boot instance %s: %w", s.ID, err)
	}
	if _, err := idsOf(s.Namespace); err != nil {
		return nil, fmt.Errorf("boot instance %s: %w", s.ID, err)
	}
	os.Remove(s.endFile())
	for _, n := range s.NICs {
		if err := Configure(s.Namespace, n); err != nil {
			return nil, fmt.Errorf("boot instance %s: %w", s.ID, err)
		}
	}
	if err := os.WriteFile(s.bootFile(), strconv.AppendUint(nil, s.Boot, 10), 0o600); err != nil {
		return nil, fmt.Errorf("boot instance %s: %w", s.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := launch(ctx, s); err != nil {
		return nil, errors.Join(fmt.Errorf("boot instance %s: %w", s.ID, err), killAll(s))
	}
	return Adopt(s)
}

// launch starts the launcher and reads the status lines of all stages until one is "ready". If none
// is, it returns an error with the last line.
func launch(ctx context.Context, s Spec) error {
	spec, err := json.Marshal(s)
	if err != nil {
		return err
	}
	console, err := os.OpenFile(s.bootLog(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	status, statusW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer status.Close()
	stop := context.AfterFunc(ctx, func() { status.SetReadDeadline(time.Now()) })
	defer stop()

	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{launchStage, s.ID}
	cmd.Env = stageEnv
	cmd.Stdin = bytes.NewReader(spec)
	cmd.ExtraFiles = []*os.File{statusW} // becomes descriptor 3 of every stage
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		statusW.Close()
		return fmt.Errorf("start the launcher: %w", err)
	}
	statusW.Close()

	last := "nothing"
	lines := bufio.NewScanner(status)
	for lines.Scan() {
		if lines.Text() == statusReady {
			return cmd.Wait()
		}
		last = lines.Text()
		fmt.Fprintln(console, last)
	}
	cmd.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("services do not listen (%w); last status: %s", ctx.Err(), last)
	}
	return fmt.Errorf("init ended; last status: %s", last)
}

// Adopt returns a running instance that an earlier daemon booted, or ErrGone if its init does not
// run.
func Adopt(s Spec) (*Instance, error) {
	id, err := process.ReadFile(s.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("adopt instance %s: no pid file: %w", s.ID, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("adopt instance %s: %w", s.ID, err)
	}
	handle, err := id.Open()
	if err != nil {
		return nil, fmt.Errorf("adopt instance %s: %w", s.ID, err)
	}
	booted, err := os.ReadFile(s.bootFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // an earlier release wrote no boot file
		return nil, errors.Join(fmt.Errorf("adopt instance %s: %w", s.ID, err), handle.Close())
	}
	if _, err := ensureGuard(s, id); err != nil {
		return nil, errors.Join(fmt.Errorf("adopt instance %s: %w", s.ID, err), handle.Close())
	}
	i := &Instance{spec: s, handle: handle}
	i.booted, _ = strconv.ParseUint(string(booted), 10, 64) // 0 if the file is damaged, and the caller boots the instance again
	return i, nil
}

// Booted returns the Spec.Boot with which the running init was booted.
func (i *Instance) Booted() uint64 { return i.booted }

// Pid returns init's process id as the node sees it.
func (i *Instance) Pid() int { return i.handle.ID().PID }

// Done returns a channel that is closed when init, and with it every process inside, has ended.
func (i *Instance) Done() <-chan struct{} { return i.handle.Done() }

// EndedBecause returns the reason for which the guard killed the instance, or "" if the guard did not
// kill it.
func (i *Instance) EndedBecause() string {
	why, _ := os.ReadFile(i.spec.endFile())
	return string(why)
}

// Kill kills all processes of the instance at once, as a power cut would, and removes the cgroup.
// The namespace and its devices stay for the next Boot.
func (i *Instance) Kill(ctx context.Context) error {
	// The kernel kills all processes of a pid namespace before it reports the end of its init.
	if err := i.handle.Kill(ctx); err != nil {
		return fmt.Errorf("kill instance %s: %w", i.spec.ID, err)
	}
	return killAll(i.spec)
}

// Close releases the handle of init. The instance keeps running.
func (i *Instance) Close() error { return i.handle.Close() }

// Remove kills the processes of an instance and removes its cgroup, network namespace and directory.
// It also removes an instance that a crash left incomplete.
func Remove(s Spec) error {
	if err := s.validate(); err != nil {
		return err
	}
	if err := killAll(s); err != nil {
		return fmt.Errorf("remove instance %s: %w", s.ID, err)
	}
	if err := netns.Delete(s.Namespace); err != nil {
		return fmt.Errorf("remove instance %s: %w", s.ID, err)
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		return fmt.Errorf("remove instance %s: %w", s.ID, err)
	}
	return nil
}

// killAll kills every process of the instance and removes the cgroup. It finds the processes by the
// pid file and the cgroup, and by the network namespace in case the launcher died before it wrote the
// pid file. Of the processes in our own pid namespace it kills only the guard, because a daemon may
// have a thread in the network namespace.
func killAll(s Spec) error {
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	if id, err := process.ReadFile(s.pidFile()); err == nil {
		if err := process.Kill(ctx, id); err != nil {
			return err
		}
	}
	inside, err := netns.Processes(s.Namespace)
	if err != nil {
		return err
	}
	for _, id := range inside {
		if _, depth := process.NamespacedPID(id.PID); depth < 2 && !isGuard(id) {
			continue
		}
		if err := process.Kill(ctx, id); err != nil {
			return err
		}
	}
	if err := removeCgroup(ctx, s); err != nil {
		// The cgroup is empty and limits no process, so it does no harm if it remains.
		slog.Warn("cgroup of instance not removed", "instance", s.ID, "err", err)
	}
	os.Remove(s.pidFile())
	return nil
}
