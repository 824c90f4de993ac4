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

// The stages, by the name the binary is called with.
const (
	// Two make the namespaces (ids.go). The first runs as the first of the instance's ids
	// and starts the second in them, to keep them until they have a name.
	namespaceStage = "palisade-namespace"
	holdStage      = "palisade-hold"
	// Four boot. The first is a child of the daemon and ends at once. The second is process 1
	// of the new pid namespace and builds its own prison, with the node's privileges; the
	// third is the same process with the instance's ids, the last after exec from inside.
	launchStage  = "palisade-launch"
	setupStage   = "palisade-setup"
	confineStage = "palisade-confine"
	initStage    = "palisade-init"
	// Two run a command inside (exec.go): the first has the node's ids and privileges and waits
	// for the second, which becomes the command.
	enterStage  = "palisade-enter"
	insideStage = "palisade-inside"
	// One stays outside and bounds the kernel memory of the instance (guard.go).
	guardStage = "palisade-guard"
)

// Descriptor 3 of every stage but the guard and those of exec.go is a pipe to whoever started the first. It
// carries lines: which process is in the new namespaces; that the services listen, which is the last.
const (
	statusFD    = 3
	statusHeld  = "held by "
	statusReady = "ready"
)

// userFD is the instance's user namespace, until it is joined. guardFD is how the listener of
// the instance's filter is handed to its guard.
const (
	userFD  = 4
	guardFD = 5
)

// stageEnv keeps init small: it mostly waits.
var stageEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "LANG=C.UTF-8", "GOMAXPROCS=1", "GOGC=25",
}

// Reexec runs the stage that args name and returns its exit status. For any other
// command line it returns false. A main that uses this package calls it before
// anything else, with os.Args.
func Reexec(args []string) (code int, ok bool) {
	// nsenter names a program by its path.
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
		if args[0] != guardStage { // whose descriptor 3 is another
			tell("%v", err)
		}
		return 1, true
	}
	return 0, true
}

// tell writes one line to whoever boots the instance; a dead reader is no error.
func tell(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	unix.Write(statusFD, []byte(line+"\n"))
}

// keepOnly closes, at the next exec, every descriptor from first on: what the daemon, or
// whoever started it, left open must not reach an instance.
func keepOnly(first uint) error {
	if err := unix.CloseRange(first, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	return nil
}

// runLaunch starts process 1 of the instance in the instance's network namespace and
// cgroup, remembers it in the pid file and ends, so that init belongs to nobody.
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
	_, guard, err := startGuard(s) // before we are in the instance's cgroup
	if err != nil {
		return err
	}
	for _, complaint := range joinCgroup(s) {
		tell("%s", complaint)
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
		return fmt.Errorf("remember init: %w", err)
	}
	if _, err := specW.Write(spec); err != nil {
		return fmt.Errorf("hand over the spec: %w", err)
	}
	return specW.Close()
}

// runSetup is process 1 on its way into the instance, with the node's ids and privileges. It
// makes the root file system, gives it to the instance's ids, and joins the instance's user
// namespace. A process with threads cannot do the latter (setns(2)), and a Go program has
// threads; nsenter does it, run from the new root, where nothing of the instance has run yet.
func runSetup([]string) error {
	runtime.LockOSThread() // the keyring is this thread's, and exec keeps that
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
	if err := unix.Dup3(statusFD, 2, 0); err != nil { // nsenter's words, should it fail
		return err
	}
	argv := []string{"nsenter", fmt.Sprintf("--user=/proc/self/fd/%d", userFD), initPath, confineStage, s.ID}
	return fmt.Errorf("join the user namespace: %w", unix.Exec(nsenter, argv, stageEnv))
}

// findNsenter returns the path of nsenter, which every Debian machine has (util-linux is
// essential there).
func findNsenter() (string, error) {
	path, err := exec.LookPath("nsenter")
	if err != nil {
		return "", fmt.Errorf("nsenter of util-linux is needed to join a user namespace: %w", err)
	}
	return path, nil
}

// requireOwnIDs fails if nsenter did not do what it was told to.
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

// runConfine is process 1 with the instance's ids. It gives up every privilege that init must
// not have, and becomes init.
func runConfine(args []string) error {
	// Capabilities and the seccomp filter belong to a thread; exec takes those of the thread
	// that calls it and ends the others.
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
	return fmt.Errorf("become init: %w", unix.Exec(initPath, append([]string{initStage}, args[1:]...), stageEnv))
}
