package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/process"
)

// The stages. Each name is args[0] when the binary executes itself.
const (
	// Two stages make the namespaces (ids.go). namespace runs as the first id of the instance and
	// starts hold in the new namespaces. hold keeps the namespaces until they have a name.
	namespaceStage = "palisade-namespace"
	holdStage      = "palisade-hold"
	// Four stages boot an instance. launch is a child of the daemon and ends at once. setup is
	// process 1 of the new pid namespace and builds the root file system with the node's privileges.
	// The same process then executes confine with the instance's ids, and after that init.
	launchStage  = "palisade-launch"
	setupStage   = "palisade-setup"
	confineStage = "palisade-confine"
	initStage    = "palisade-init"
	// Two stages run a command inside (exec.go). enter has the node's ids and privileges; it starts
	// inside, which executes the command, and waits until the command ends.
	enterStage  = "palisade-enter"
	insideStage = "palisade-inside"
	// guard stays outside the instance and bounds its kernel memory (guard.go).
	guardStage = "palisade-guard"
)

// Descriptor 3 of every stage, except guard, enter and inside, is a pipe to the process that started
// the first stage. The stages write status lines into it: the pid of the process that holds the new
// namespaces, errors, and at last that the services listen.
const (
	statusFD    = 3
	statusHeld  = "held by "
	statusReady = "ready"
)

// userFD is the descriptor of the instance's user namespace, which is open until the stage has joined
// that namespace. guardFD is the descriptor over which the listener of the seccomp filter is sent to
// the instance's guard.
const (
	userFD  = 4
	guardFD = 5
)

// stageEnv is the environment of stages. GOMAXPROCS and GOGC keep the memory of init small; init
// mostly waits.
var stageEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "LANG=C.UTF-8", "GOMAXPROCS=1", "GOGC=25",
}

// If args is the command line of a stage, Reexec runs the stage and returns its exit status and true.
// If not, it returns false. The main function of a program that uses this package must first call it
// with os.Args.
func Reexec(args []string) (code int, ok bool) {
	// nsenter has set args[0] to the path of the program, so the name of the stage is args[1].
	if len(args) > 1 && (args[1] == confineStage || args[1] == insideStage) {
		args = args[1:]
	}
	if len(args) == 0 || !strings.HasPrefix(args[0], "palisade-") {
		return 0, false
	}
	switch args[0] {
	case enterStage:
		return enter(args[1:]), true
	case insideStage:
		return runInside(args[1:]), true
	}
	stage := map[string]func([]string) error{
		namespaceStage: runNamespace, holdStage: runHold,
		launchStage: runLaunch, setupStage: runSetup, confineStage: runConfine, initStage: runInit,
		guardStage: runGuard,
	}[args[0]]
	if stage == nil {
		return 0, false
	}
	if err := stage(args); err != nil {
		if args[0] != guardStage { // descriptor 3 of the guard is not a status pipe
			tell("%v", err)
		}
		return 1, true
	}
	return 0, true
}

// tell writes one status line. It ignores errors, because the reader may have ended.
func tell(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	unix.Write(statusFD, []byte(line+"\n"))
}

// keepOnly marks every descriptor from first on to be closed at the next exec, because an instance
// must not inherit what the daemon or its parent left open.
func keepOnly(first uint) error {
	if err := unix.CloseRange(first, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	return nil
}

// runLaunch is the launch stage. It starts process 1 of the instance in the instance's network
// namespace and cgroup, writes the pid file and ends, so that init is not a child of the daemon.
func runLaunch([]string) error {
	spec, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fmt.Errorf("read the spec: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(spec, &s); err != nil {
		return fmt.Errorf("read the spec: %w", err)
	}
	if err := keepOnly(statusFD + 1); err != nil {
		return err
	}
	user, err := userNamespace(netns.Path(s.Namespace))
	if err != nil {
		return err
	}
	_, guard, err := startGuard(s) // before this process joins the instance's cgroup
	if err != nil {
		return err
	}
	for _, warning := range joinCgroup(s) {
		tell("%s", warning)
	}
	specR, specW, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{setupStage, s.ID}
	cmd.Env = stageEnv
	cmd.Stdin = specR
	cmd.ExtraFiles = []*os.File{os.NewFile(statusFD, "status"), user, guard}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
			unix.CLONE_NEWCGROUP,
	}
	if err := netns.Do(s.Namespace, cmd.Start); err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	specR.Close()
	id, err := process.Of(cmd.Process.Pid)
	if err == nil {
		err = id.WriteFile(s.pidFile())
	}
	if err == nil {
		err = tellGuard(guard, id)
	}
	if err != nil {
		cmd.Process.Kill()
		return fmt.Errorf("register init: %w", err)
	}
	if _, err := specW.Write(spec); err != nil {
		return fmt.Errorf("send the spec: %w", err)
	}
	return specW.Close()
}

// runSetup is the setup stage: process 1 with the node's ids and privileges. It makes the root file
// system, whose owner is the instance's root, and joins the instance's user namespace. A process with
// threads cannot join a user namespace (setns(2)), and a Go program has threads, so runSetup executes
// nsenter, which joins it and executes the confine stage. nsenter is loaded from the new root, where
// no process of the instance has run yet.
func runSetup([]string) error {
	runtime.LockOSThread() // the keyring belongs to this thread, and exec keeps the thread
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the setup process not dumpable, against ptrace: %w", err)
	}
	if err := keepOnly(guardFD + 1); err != nil {
		return err
	}
	var s Spec
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return fmt.Errorf("read the spec: %w", err)
	}
	ids, err := idsOfMaker(userFD)
	if err != nil {
		return err
	}
	nsenter, err := findNsenter()
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.hostname())); err != nil {
		return fmt.Errorf("set hostname %q: %w", s.hostname(), err)
	}
	if err := enterNewRoot(s, ids); err != nil {
		return err
	}
	if err := leaveKeyring(); err != nil {
		return err
	}
	if err := unix.Dup3(statusFD, 2, 0); err != nil { // nsenter prints its errors on descriptor 2, so they become status lines
		return err
	}
	argv := []string{"nsenter", fmt.Sprintf("--user=/proc/self/fd/%d", userFD), initPath, confineStage, s.ID}
	return fmt.Errorf("join the user namespace: %w", unix.Exec(nsenter, argv, stageEnv))
}

// findNsenter returns the path of nsenter, which is in Debian's essential package util-linux.
func findNsenter() (string, error) {
	path, err := exec.LookPath("nsenter")
	if err != nil {
		return "", fmt.Errorf("nsenter of util-linux is needed to join a user namespace: %w", err)
	}
	return path, nil
}

// requireOwnIDs returns an error if this process is not in the instance's user namespace, because
// nsenter did not join it.
func requireOwnIDs() error {
	mapped, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	if f := strings.Fields(string(mapped)); len(f) != 3 || f[2] != strconv.Itoa(idsPerInstance) {
		return fmt.Errorf("nsenter did not join the user namespace: user ids are %q", strings.Join(f, " "))
	}
	return nil
}

// runConfine is the confine stage: process 1 with the instance's ids. It gives up every privilege
// that init must not have, and executes init.
func runConfine(args []string) error {
	// Each thread has its own capabilities and seccomp filter. exec keeps those of the calling thread
	// and ends the other threads.
	runtime.LockOSThread()
	if err := errors.Join(unix.Dup3(0, 2, 0), keepOnly(statusFD+1)); err != nil {
		return err
	}
	if err := requireOwnIDs(); err != nil {
		return err
	}
	listener, err := confine()
	if err != nil {
		return err
	}
	if err := handOver(os.NewFile(guardFD, "guard"), listener); err != nil {
		return err
	}
	return fmt.Errorf("execute init: %w", unix.Exec(initPath, append([]string{initStage}, args[1:]...), stageEnv))
}
