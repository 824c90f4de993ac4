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

// The stages, by the name under which the binary executes itself.
const (
	// Two stages make the namespaces (ids.go). The first runs as the first id of the instance and
	// starts the second in the new namespaces, which holds them until they have a name.
	namespaceStage = "palisade-namespace"
	holdStage      = "palisade-hold"
	// Four stages boot an instance. launch is a child of the daemon and ends at once. setup is
	// process 1 of the new pid namespace and builds the root file system with the node's
	// privileges. The same process executes confine with the instance's ids, and then init.
	launchStage  = "palisade-launch"
	setupStage   = "palisade-setup"
	confineStage = "palisade-confine"
	initStage    = "palisade-init"
	// Two stages run a command inside (exec.go): enter has the node's ids and privileges and waits
	// for inside, which executes the command.
	enterStage  = "palisade-enter"
	insideStage = "palisade-inside"
	// guard stays outside the instance and bounds its kernel memory (guard.go).
	guardStage = "palisade-guard"
)

// Descriptor 3 of every stage, except guard, enter and inside, is a pipe to the process that started the
// first stage. It carries status lines: the process that holds the new namespaces; errors; and at last
// that the services listen.
const (
	statusFD    = 3
	statusHeld  = "held by "
	statusReady = "ready"
)

// userFD is the descriptor of the instance's user namespace until the stage has joined it. Over guardFD
// the listener of the instance's filter is sent to its guard.
const (
	userFD  = 4
	guardFD = 5
)

// stageEnv is the environment of stages. It keeps init small, which mostly waits.
var stageEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "LANG=C.UTF-8", "GOMAXPROCS=1", "GOGC=25",
}

// Reexec runs the stage that args name and returns its exit status. For any other command line it
// returns false. The main function of a program that uses this package must first call it with
// os.Args.
func Reexec(args []string) (code int, ok bool) {
	// nsenter sets args[0] to the path of the program.
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
		if args[0] != guardStage { // its descriptor 3 is no status pipe
			tell("%v", err)
		}
		return 1, true
	}
	return 0, true
}

// tell writes one status line. It is no error if the reader has ended.
func tell(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	unix.Write(statusFD, []byte(line+"\n"))
}

// keepOnly closes every descriptor from first on at the next exec: an instance must not inherit what the
// daemon or its parent left open.
func keepOnly(first uint) error {
	if err := unix.CloseRange(first, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	return nil
}

// runLaunch starts process 1 of the instance in its network namespace and cgroup, writes the pid file
// and ends, so that init is no child of the daemon.
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

// runSetup is process 1 with the node's ids and privileges. It makes the root file system, whose owner
// is the instance's root, and joins the instance's user namespace. A process with threads cannot join
// a user namespace (setns(2)), and a Go program has threads, so nsenter does it. nsenter is run from
// the new root, where no process of the instance has run yet.
func runSetup([]string) error {
	runtime.LockOSThread() // the keyring belongs to this thread, and exec keeps the thread
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide setup from ptrace: %w", err)
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
	if err := unix.Dup3(statusFD, 2, 0); err != nil { // so that nsenter's error is a status line
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

// requireOwnIDs fails if nsenter did not join the user namespace.
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

// runConfine is process 1 with the instance's ids. It gives up every privilege that init must not have,
// and executes init.
func runConfine(args []string) error {
	// Capabilities and the seccomp filter belong to a thread. exec keeps those of the calling
	// thread and ends the other threads.
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
