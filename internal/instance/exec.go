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
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/process"
)

// Stdio is what a command inside reads and writes; nil is /dev/null. Give an *os.File to
// have it handed over as it is.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec runs argv inside the instance whose network namespace is called namespace, as its
// root, in all its namespaces and its cgroup and with no more privilege than it has. It
// returns argv's exit status, 128 and the signal's number if a signal ended it.
func Exec(ctx context.Context, namespace string, argv []string, stdio Stdio) (int, error) {
	if len(argv) == 0 {
		return 0, errors.New("no command to run")
	}
	target, err := find(namespace)
	if err != nil {
		return 0, err
	}
	// A process of its own enters: the caller may be a daemon with many threads.
	args := []string{enterStage, strconv.Itoa(target.PID), strconv.FormatUint(target.Start, 10)}
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

// find returns the init of the instance with this network namespace: the process there
// that is number 1 of a pid namespace below ours.
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

// Exit statuses of env(1) for a command that could not be run.
const (
	exitCannotEnter = 125
	exitCannotRun   = 126
	exitNotFound    = 127
)

// enter is the stage behind Exec: args are pid, start time and the command.
func enter(args []string) int {
	if len(args) < 3 {
		return exitCannotEnter
	}
	pid, err1 := strconv.Atoi(args[0])
	start, err2 := strconv.ParseUint(args[1], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitCannotEnter
	}
	runtime.LockOSThread() // never unlocked: namespaces and privileges are this thread's
	if err := enterNamespaces(process.ID{PID: pid, Start: start}); err != nil {
		fmt.Fprintf(os.Stderr, "enter instance: %v\n", err)
		return exitCannotEnter
	}
	return runInside(args[2:])
}

func enterNamespaces(target process.ID) error {
	// While this process, with the node's privileges, can be seen from inside, nobody
	// there may open its /proc entries; exec of the command lifts it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	if err := keepOnly(3); err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(target.PID, 0)
	if err != nil || !target.Alive() {
		return ErrGone
	}
	defer unix.Close(pidfd)
	if err := joinCgroupOf(target.PID); err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(pidfd, namespaceFlags&^unix.CLONE_NEWUSER); err != nil {
		return err
	}
	if err := replaceNull(); err != nil {
		return err
	}
	return confine()
}

// replaceNull puts the instance's /dev/null in the place of the node's, which root inside
// could otherwise reach by its descriptor and make unusable for the whole node.
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

// runInside starts the command, in the new pid namespace because it is a child, and lets
// it have the terminal's signals.
func runInside(argv []string) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	unix.Chdir("/root")
	path, err := exec.LookPath(argv[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitNotFound
	}
	p, err := os.StartProcess(path, argv, &os.ProcAttr{
		Env: loginEnv(os.Getenv("TERM")), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitCannotRun
	}
	go func() {
		for sig := range signals {
			if sig == unix.SIGTERM || sig == unix.SIGHUP {
				p.Signal(sig) // the other two reach it through the terminal
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
