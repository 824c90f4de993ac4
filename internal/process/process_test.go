package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leaderless is an environment variable. If it is set, this test binary becomes a process
// whose first thread has ended and whose other threads run, like a process that is being
// killed.
const leaderless = "PROCESS_TEST_LEADERLESS"

func init() {
	if os.Getenv(leaderless) != "" {
		go func() {
			for {
				time.Sleep(time.Second)
			}
		}()
		runtime.LockOSThread() // an init function runs on the first thread
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

// A process is alive until its last thread ends, because its descriptors stay open until
// then.
func TestProcessIsAliveUntilItsLastThreadEnds(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), leaderless+"=1")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	theirs.Close()
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", id.PID))
		if err == nil && strings.Contains(string(status), "State:\tZ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the first thread of the process does not end (error %v); its status:\n%s", err, status)
		}
	}
	if !id.Alive() {
		t.Error("Alive returned false while other threads of the process run; want true")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := Kill(ctx, id); err != nil {
		t.Fatal(err)
	}
	if id.Alive() {
		t.Error("the process is alive after Kill")
	}
	conn, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var failed error
	if err := conn.Control(func(fd uintptr) { n, failed = unix.Read(int(fd), make([]byte, 1)) }); err != nil {
		t.Fatal(err)
	}
	if n != 0 || failed != nil { // EAGAIN would mean that the process still has the other end open
		t.Errorf("read of the pipe from the process after Kill: %d bytes, error %v; want the end of file", n, failed)
	}
}

func startSleep(t *testing.T) (*exec.Cmd, ID) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, id
}

func TestKillWaitsUntilTheProcessHasEnded(t *testing.T) {
	_, id := startSleep(t)
	h, err := id.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := h.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if id.Alive() {
		t.Errorf("Alive(%v) returned true after Kill, want false also for a zombie", id)
	}
	if _, err := id.Open(); !errors.Is(err, ErrGone) {
		t.Errorf("Open of an ended process returned %v, want ErrGone", err)
	}
	if err := Kill(ctx, id); err != nil {
		t.Errorf("Kill of an ended process returned %v, want no error", err)
	}
}

func TestDuplicateIsTheSameFile(t *testing.T) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	cmd := exec.Command("sleep", "600")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	theirs.Close()
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	h, err := id.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	file, err := h.Duplicate(3)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("through"); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 7)
	if _, err := io.ReadFull(ours, said); err != nil || string(said) != "through" {
		t.Errorf("read %q from the pipe (error %v), want \"through\"", said, err)
	}
	if _, err := h.Duplicate(99); err == nil {
		t.Error("Duplicate of a descriptor that is not open returned no error")
	}
}

func TestReusedPIDIsAnotherProcess(t *testing.T) {
	cmd, id := startSleep(t)
	id.Start-- // the ID of an earlier process with this pid
	if id.Alive() {
		t.Error("Alive returned true for an ID with another start time")
	}
	if err := Kill(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if now, err := Of(cmd.Process.Pid); err != nil || now.Start != id.Start+1 {
		t.Errorf("Kill of an earlier ID ended the process that reuses its pid: its ID is now %v (error %v)", now, err)
	}
}

func TestReadFileReturnsWhatWriteFileStored(t *testing.T) {
	id, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pid")
	if err := id.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(path); err != nil || got != id {
		t.Errorf("ReadFile returned %v, %v; want %v", got, err, id)
	}
	os.WriteFile(path, []byte("{}"), 0o600)
	if got, err := ReadFile(path); err == nil {
		t.Errorf("ReadFile of a file without an id returned %v, want an error", got)
	}
}
