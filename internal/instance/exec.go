package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/process"
)

// Stdio has the standard streams of a command inside; a nil stream is /dev/null. The command gets an
// *os.File as its own descriptor; data of other streams is copied.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec runs argv inside the instance with this network namespace: as root of the instance, in all its
// namespaces and its cgroup, and with no more privileges than the instance has. It returns the exit
// status of argv, or 128 plus the number of the signal that killed it.
func Exec(ctx context.Context, namespace string, argv []string, stdio Stdio) (int, error) {
	if len(argv) == 0 {
		return 0, errors.New("no command to run")
	}
	target, err := find(namespace)
	if err != nil {
		return 0, err
	}
	// A new process enters the namespaces, because the caller may be a daemon with many threads.
	guard, err := ensureGuard(Spec{Namespace: namespace, ID: namespace}, target)
	if err != nil {
		return 0, fmt.Errorf("run in %s: %w", namespace, err)
	}
	args := []string{enterStage, formatID(target), formatID(guard)}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append(args, argv...)
	cmd.Env = append([]string{"TERM=" + os.Getenv("TERM")}, stageEnv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("run in %s: %w", namespace, err)
	}
	return 0, nil
}

// find returns the init of the instance with this network namespace, or ErrGone. Init is the process
// that has pid 1 in a pid namespace directly below ours.
func find(namespace string) (process.ID, error) {
	inside, err := netns.Processes(namespace)
	if err != nil {
		return process.ID{}, err
	}
	for _, id := range inside {
		if inner, depth := process.NamespacedPID(id.PID); inner == 1 && depth == 2 {
			return id, nil
		}
	}
	return process.ID{}, fmt.Errorf("no instance runs in %s: %w", namespace, ErrGone)
}

// Exit statuses for a command that could not run, as in env(1).
const (
	exitCannotEnter = 125
	exitCannotRun   = 126
	exitNotFound    = 127
)

// formatID returns id as a command line argument of the enter stage.
func formatID(id process.ID) string { return fmt.Sprintf("%d@%d", id.PID, id.Start) }

func parseID(arg string) (id process.ID, err error) {
	_, err = fmt.Sscanf(arg, "%d@%d", &id.PID, &id.Start)
	return id, err
}

// enter is the stage that Exec starts. args are the process ids of init and of the guard, and the
// command. It returns the exit status of the command.
func enter(args []string) int {
	if len(args) < 3 {
		return exitCannotEnter
	}
	target, err1 := parseID(args[0])
	guard, err2 := parseID(args[1])
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitCannotEnter
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	runtime.LockOSThread() // never unlocked: namespaces and keyring belong to this thread
	p, err := startInside(target, guard, args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "enter instance: %v\n", err)
		return exitCannotEnter
	}
	return wait(p, signals)
}

// startInside starts the command in all of the instance's namespaces. The new process is in the pid
// namespace from its start, so the instance's root can see it. It first executes nsenter, which joins
// the mount and the user namespace and executes this binary again. nsenter is loaded from the node's
// file system, because the instance's root can change the files that the loader would read inside.
func startInside(target, guardID process.ID, argv []string) (*os.Process, error) {
	// No process of the instance may open the /proc entries of this process and its child while they
	// have the node's privileges. The protection ends with exec.
	err := errors.Join(unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0), keepOnly(3))
	if err != nil {
		return nil, err
	}
	nsenter, err := findNsenter()
	if err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(target.PID, 0)
	if err != nil {
		return nil, ErrGone
	}
	defer unix.Close(pidfd)
	proc := fmt.Sprintf("/proc/%d/", target.PID)
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	for _, path := range []string{"/proc/self/exe", proc + "ns/mnt", proc + "ns/user"} {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files = append(files, f)
	}
	if !target.Alive() { // still alive, so the files opened above belong to target, not to a process that reused its pid
		return nil, ErrGone
	}
	guard, err := dialGuard(guardID)
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	files = append(files, guard) // insideGuardFD
	args := []string{"nsenter", "--mount=/proc/self/fd/4"}
	ids, err := idsOfMaker(int(files[5].Fd()))
	switch {
	case errors.Is(err, ErrSharedIDs):
		// An earlier release booted the instance with the ids of the node, so the command gets these
		// ids too.
	case err != nil:
		return nil, err
	default:
		args = append(args, "--user=/proc/self/fd/5")
		if err := lendPipes(ids); err != nil {
			return nil, err
		}
	}
	if err := joinCgroupOf(target.PID); err != nil {
		return nil, fmt.Errorf("join cgroup: %w", err)
	}
	if err := leaveKeyring(); err != nil {
		return nil, err
	}
	if err := unix.Setns(pidfd, namespaceFlags&^(unix.CLONE_NEWUSER|unix.CLONE_NEWNS)); err != nil {
		return nil, err
	}
	args = append(append(args, "/proc/self/fd/3", insideStage), argv...)
	return os.StartProcess(nsenter, args, &os.ProcAttr{Env: append(stageEnv, "TERM="+os.Getenv("TERM")), Files: files})
}

// lendPipes makes the instance's root the owner of each standard stream that is a pipe, so that the
// command can open it by a name such as /dev/stderr. Files and terminals keep their owner.
func lendPipes(ids idRange) error {
	for fd := range 3 {
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.PIPEFS_MAGIC {
			continue
		}
		if err := unix.Fchown(fd, int(ids), int(ids)); err != nil {
			return fmt.Errorf("make the instance's root the owner of descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// wait waits until the command ends and returns its exit status. Meanwhile it forwards SIGTERM and
// SIGHUP to the command.
func wait(p *os.Process, signals <-chan os.Signal) int {
	go func() {
		for sig := range signals {
			if sig == unix.SIGTERM || sig == unix.SIGHUP {
				p.Signal(sig) // the terminal itself sends SIGINT and SIGQUIT to the command
			}
		}
	}()
	state, err := p.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitCannotRun
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}

// insideGuardFD is the descriptor over which runInside sends the listener of the command's seccomp
// filter to the guard.
const insideGuardFD = 6

// runInside gives up the privileges that the instance must not have, and executes the command. It
// returns an exit status only if it cannot execute it.
func runInside(argv []string) int {
	runtime.LockOSThread()
	if err := errors.Join(keepOnly(3), replaceNull(), unix.Chdir("/root")); err != nil {
		fmt.Fprintf(os.Stderr, "enter instance: %v\n", err)
		return exitCannotEnter
	}
	listener, err := confine()
	if err != nil {
		fmt.Fprintf(os.Stderr, "enter instance: %v\n", err)
		return exitCannotEnter
	}
	if err := handOver(os.NewFile(insideGuardFD, "guard"), listener); err != nil {
		fmt.Fprintf(os.Stderr, "enter instance: %v\n", err)
		return exitCannotEnter
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitNotFound
	}
	err = unix.Exec(path, argv, loginEnv(os.Getenv("TERM")))
	fmt.Fprintf(os.Stderr, "run %s: %v\n", path, err)
	return exitCannotRun
}

// replaceNull replaces each standard stream that is the node's /dev/null by the instance's own
// /dev/null. The instance's root cannot reopen the node's device by its descriptor. In an instance
// with the node's ids, root could also make the node's device unusable by a chmod.
func replaceNull() error {
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
			continue
		}
		null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Dup3(null, fd, 0)
		unix.Close(null)
		if err != nil {
			return err
		}
	}
	return nil
}
