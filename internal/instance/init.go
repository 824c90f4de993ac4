package instance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/packet"
)

// Paths inside the instance. The log is a file in the instance's own memory. If it were a file of the
// node, the instance's root could rewrite it through /proc/1/fd, or fill the node's disk.
const (
	initLog      = "/var/log/init.log"
	userDataPath = "/var/lib/user-data"
	userDataLog  = "/var/log/user-data.log"
)

// runInit is process 1 of the instance. It serves the image's services, runs the user data, and reaps
// orphaned processes, until it receives a signal to power off.
func runInit([]string) error {
	packet.ReleaseMemory()
	unix.CloseOnExec(statusFD)
	data, err := os.ReadFile(specPath)
	if err != nil {
		return err
	}
	os.Remove(specPath)
	var s Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("read the spec: %w", err)
	}
	image, err := Lookup(s.Image)
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(initLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(logFile, nil)))

	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	powerOff := make(chan os.Signal, 1)
	signal.Notify(powerOff, unix.SIGTERM, unix.SIGPWR)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)

	i := &initProcess{spec: s, children: map[int]func(unix.WaitStatus){}}
	failed := make(chan error, 1)
	go func() { failed <- i.runBoot(image) }()
	for {
		select {
		case <-ended:
			i.reap()
		case err := <-failed:
			if err != nil {
				return err
			}
			failed = nil
		case <-powerOff:
			slog.Info("power off")
			return nil
		}
	}
}

// An initProcess starts the instance's processes and reaps them. It is owned by runInit. The mutex
// guards children. It is held while a process is started and while ended processes are reaped, so
// that reap never finds a process before start has added it to children.
type initProcess struct {
	spec Spec

	mu       sync.Mutex
	children map[int]func(unix.WaitStatus) // by pid of a process that start has started; called when the process has ended
}

// runBoot starts the services, reports that they listen, and starts the user data.
func (i *initProcess) runBoot(image Image) error {
	if err := i.serve(image); err != nil {
		return err
	}
	slog.Info("services listen", "image", image.ID, "name", image.Name)
	tell(statusReady)
	unix.Close(statusFD)
	if bytes.HasPrefix(i.spec.UserData, []byte("#!")) {
		if err := i.runUserData(); err != nil {
			slog.Error("user data not started", "err", err)
		}
	}
	return nil
}

// runUserData starts the user data as a script and does not wait until it ends.
func (i *initProcess) runUserData() error {
	if err := os.WriteFile(userDataPath, i.spec.UserData, 0o700); err != nil {
		return err
	}
	output, err := os.OpenFile(userDataLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer output.Close()
	return i.start([]string{userDataPath}, output, func(ws unix.WaitStatus) {
		slog.Info("user data ended", "status", ws.ExitStatus())
	})
}

// start starts the program argv with its output in the file output. When the program has ended, the
// goroutine of runInit calls the function ended with the mutex held.
func (i *initProcess) start(argv []string, output *os.File, ended func(unix.WaitStatus)) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	i.mu.Lock()
	defer i.mu.Unlock()
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Dir: "/root", Env: loginEnv(""), Files: []*os.File{null, output, output},
		Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", argv[0], err)
	}
	i.children[p.Pid] = ended
	return p.Release()
}

// reap reaps all processes that have ended: those that start has started, and orphans.
func (i *initProcess) reap() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended := i.children[pid]; ended != nil {
			delete(i.children, pid)
			ended(ws)
		}
	}
}

// startSSHD starts sshd and returns when sshd listens. If sshd ends later, runSSHD starts it again
// after a second.
func (i *initProcess) startSSHD() error {
	if err := makeHostKey("/etc/ssh/ssh_host_ed25519_key"); err != nil {
		return err
	}
	listening := make(chan error, 1)
	if err := i.runSSHD(listening); err != nil {
		return err
	}
	return <-listening
}

func (i *initProcess) runSSHD(listening chan<- error) error {
	stderr, stderrW, err := os.Pipe()
	if err != nil {
		return err
	}
	err = i.start([]string{sshdPath, "-D", "-e", "-f", "/etc/ssh/sshd_config"}, stderrW, func(ws unix.WaitStatus) {
		slog.Warn("sshd ended", "status", ws.ExitStatus())
		time.AfterFunc(time.Second, func() {
			if err := i.runSSHD(make(chan error, 1)); err != nil {
				slog.Error("sshd not restarted", "err", err)
			}
		})
	})
	stderrW.Close()
	if err != nil {
		stderr.Close()
		return err
	}
	go runSSHDLog(stderr, listening)
	return nil
}

// runSSHDLog copies sshd's messages to the log until sshd and its child processes have ended. It
// sends nil to listening when sshd listens, or an error if sshd ends before.
func runSSHDLog(stderr io.ReadCloser, listening chan<- error) {
	defer stderr.Close()
	reported := false
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		slog.Info("message of sshd", "message", lines.Text())
		if !reported && bytes.HasPrefix(lines.Bytes(), []byte("Server listening on ")) {
			listening <- nil
			reported = true
		}
	}
	if !reported {
		listening <- errors.New("sshd ended before it listened")
	}
}

// loginEnv returns the environment of processes inside. term is the value of the caller's variable
// TERM.
func loginEnv(term string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=" + shell(), "LANG=C.UTF-8",
	}
	if term != "" {
		env = append(env, "TERM="+term)
	}
	return env
}
