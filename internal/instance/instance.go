// Package instance is what stands behind a port of the switch: a set of namespaces (user, net,
// mount, pid, ipc, uts) and a cgroup around an init of its own, which serves what its
// image promises. Its ids are its own too: its root is an unprivileged user of the node (ids.go).
//
// An instance is never a child of the daemon. The daemon starts a launcher, the launcher
// starts init and ends, so the death of the daemon touches no instance, and the next
// daemon adopts it. The life of one, in the order of the calls:
//
//	Prepare   makes the user and the network namespace and names the latter, which keeps both;
//	          the caller then puts the devices into it
//	Boot      configures the devices, starts init, returns when its services listen
//	Configure adds a device, or changes one, while it runs; Unplug removes one
//	Adopt     finds a running init again
//	Kill      ends everything inside
//	Remove    takes away what is left: cgroup, namespace, directory
//
// The binary re-executes itself in stages (reexec.go): namespace and hold (ids.go); launch,
// setup (root.go), confine (confine.go), init (init.go, service.go); enter and inside (exec.go);
// and guard (guard.go), which bounds the kernel memory of the instance's sockets. Image lists what
// can be launched. This package knows no switch, no firewall and no API.
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

// bootTimeout bounds the time from the launcher's start until the services listen.
const bootTimeout = 5 * time.Second

// ErrGone says that an instance's init has ended.
var ErrGone = process.ErrGone

// A Spec says all there is to know about an instance before it boots.
type Spec struct {
	Namespace string // name below /run/netns: "lab-i-cfd732a6"
	ID        string // "i-cfd732a6"
	Hostname  string // default: ID
	Image     string // any "ami-…"; see Lookup

	NICs []NIC // whose devices the caller has put into Namespace

	Boot           uint64   // which of its boots this is, as the caller counts them
	AuthorizedKeys []string // lines of root's authorized_keys
	UserData       []byte   // run at boot if it begins with "#!"

	Dir          string // node-side private directory: pid file, boot log
	CgroupPrefix string // parent of the instance's cgroup; "" makes none
}

// address is the instance's first, or zero.
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
		return errors.New("instance without an id")
	case !filepath.IsAbs(s.Dir):
		return fmt.Errorf("instance %s: directory %q is not absolute", s.ID, s.Dir)
	case slices.ContainsFunc(s.NICs, func(n NIC) bool { return n.Device == "" || len(n.Addresses) == 0 }):
		return fmt.Errorf("instance %s: a NIC without a name or an address", s.ID)
	case strings.ContainsAny(s.CgroupPrefix, "/") || strings.HasPrefix(s.CgroupPrefix, "."):
		return fmt.Errorf("instance %s: %q cannot name a cgroup", s.ID, s.CgroupPrefix)
	}
	return nil
}

// Prepare makes the network namespace, with loopback up and nothing else in it, and the
// instance's directory. What is there already is kept, but for a namespace of an earlier
// release in which nothing runs any more.
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
	MakeRoomForNeighbours() // where we cannot, the lab has, or has said that it could not
	if err := netns.Do(s.Namespace, configureNamespace); err != nil {
		return fmt.Errorf("prepare instance %s: %w", s.ID, err)
	}
	return nil
}

// An Instance is a running init. Its methods may be called from any goroutine.
type Instance struct {
	spec   Spec
	handle *process.Handle
	booted uint64
}

// Boot configures the devices, starts init and returns when init says that its services
// listen. If it cannot, nothing of the instance runs afterwards. It may be called again
// after a crash at any point of an earlier call.
func Boot(ctx context.Context, s Spec) (*Instance, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	if id, err := process.ReadFile(s.pidFile()); err == nil && id.Alive() {
		return nil, fmt.Errorf("boot instance %s: process %d is its init already", s.ID, id.PID)
	}
	// A daemon killed at this point earlier may have left an init nobody knows, which
	// would hold the ports that ours is to listen on.
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

// launch starts the launcher and follows what it and its successors say until "ready".
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
	cmd.ExtraFiles = []*os.File{statusW} // descriptor 3 of every stage
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		statusW.Close()
		return fmt.Errorf("start the launcher: %w", err)
	}
	statusW.Close()

	said := "nothing"
	lines := bufio.NewScanner(status)
	for lines.Scan() {
		if lines.Text() == statusReady {
			return cmd.Wait()
		}
		said = lines.Text()
		fmt.Fprintln(console, said)
	}
	cmd.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("services do not listen (%w); the last it said: %s", ctx.Err(), said)
	}
	return fmt.Errorf("init ended; the last it said: %s", said)
}

// Adopt finds the running init of an instance that an earlier daemon booted. It returns
// ErrGone if there is none.
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
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // none: by an earlier release
		return nil, errors.Join(fmt.Errorf("adopt instance %s: %w", s.ID, err), handle.Close())
	}
	if _, err := ensureGuard(s, id); err != nil {
		return nil, errors.Join(fmt.Errorf("adopt instance %s: %w", s.ID, err), handle.Close())
	}
	i := &Instance{spec: s, handle: handle}
	i.booted, _ = strconv.ParseUint(string(booted), 10, 64) // damaged is as good as none: it boots again
	return i, nil
}

// Booted is the Spec.Boot that it runs by.
func (i *Instance) Booted() uint64 { return i.booted }

// Pid returns init's process id as the node sees it.
func (i *Instance) Pid() int { return i.handle.ID().PID }

// Done is closed when init, and with it every process inside, has ended.
func (i *Instance) Done() <-chan struct{} { return i.handle.Done() }

// EndedBecause says why the instance's guard ended it. It is empty for one that ended by
// itself, was told to, or runs.
func (i *Instance) EndedBecause() string {
	why, _ := os.ReadFile(i.spec.endFile())
	return string(why)
}

// Kill ends every process inside at once, as a power switch does, and removes the cgroup.
// The namespace and its device stay for the next Boot.
func (i *Instance) Kill(ctx context.Context) error {
	// The kernel ends a pid namespace with its init, before init's end is reported.
	if err := i.handle.Kill(ctx); err != nil {
		return fmt.Errorf("kill instance %s: %w", i.spec.ID, err)
	}
	return killAll(i.spec)
}

// Close lets go of a running instance; it runs on.
func (i *Instance) Close() error { return i.handle.Close() }

// Remove ends what still runs of an instance and takes away cgroup, network namespace
// and directory. It finishes what a crash left half made or half removed.
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

// killAll ends every process of the instance by each trace one can leave: the pid file, the
// cgroup, and, for an init whose launcher died before it wrote the pid file, the network
// namespace. Of our own pid namespace it ends the guard there and spares the rest: a
// daemon's thread at work there is not the instance's.
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
		// Limits that nobody is under any more: untidy, not unsafe.
		slog.Warn("cgroup stays behind", "instance", s.ID, "err", err)
	}
	os.Remove(s.pidFile())
	return nil
}
