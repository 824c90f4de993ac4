package instance

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/process"
)

// The stages, by the name the binary is called with. The first is a child of the daemon
// and ends at once; the second is process 1 of the new pid namespace and builds its own
// prison; the third is the second after exec from inside it.
const (
	launchStage = "palisade-launch"
	setupStage  = "palisade-setup"
	initStage   = "palisade-init"
	enterStage  = "palisade-enter"
)

// Descriptor 3 of every stage is a pipe to whoever boots the instance. It carries lines;
// this one is the last and says that the services listen.
const (
	statusFD    = 3
	statusReady = "ready"
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
	if len(args) == 0 || !strings.HasPrefix(args[0], "palisade-") {
		return 0, false
	}
	if args[0] == enterStage {
		return enter(args[1:]), true
	}
	stage := map[string]func() error{launchStage: runLaunch, setupStage: runSetup, initStage: runInit}[args[0]]
	if stage == nil {
		return 0, false
	}
	if err := stage(); err != nil {
		tell("%v", err)
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
func runLaunch() error {
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
	cmd.ExtraFiles = []*os.File{os.NewFile(statusFD, "status")}
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
	if err != nil {
		cmd.Process.Kill()
		return fmt.Errorf("remember init: %w", err)
	}
	if _, err := specW.Write(spec); err != nil {
		return fmt.Errorf("hand over the spec: %w", err)
	}
	return specW.Close()
}

// runSetup is process 1 on its way into the instance: it makes the root file system, gives
// up every privilege that init must not have, and becomes init.
func runSetup() error {
	// Capabilities, the seccomp filter and the keyring belong to a thread; exec takes
	// those of the thread that calls it and ends the others.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide setup from ptrace: %w", err)
	}
	if err := keepOnly(statusFD + 1); err != nil {
		return err
	}
	var s Spec
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return fmt.Errorf("read the spec: %w", err)
	}
	if err := unix.Sethostname([]byte(s.hostname())); err != nil {
		return fmt.Errorf("set hostname %q: %w", s.hostname(), err)
	}
	if err := enterNewRoot(s); err != nil {
		return err
	}
	if err := confine(); err != nil {
		return err
	}
	return fmt.Errorf("become init: %w", unix.Exec(initPath, []string{initStage, s.ID}, stageEnv))
}
