// Package process identifies, watches and ends processes that are not children of this one:
// the daemon that an earlier command started, the init of an instance that outlives its daemon.
//
// An ID is a pid and a start time, because the kernel reuses pids. It can be stored in a
// file. A Handle is a pidfd. After it has opened the pidfd, Open checks that the process has
// the ID, so a Handle never signals another process that reuses the pid.
package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"palisade/internal/atomicfile"
)

// ErrGone means that the process has ended: all of its threads have ended, and its
// descriptors are closed. A zombie counts as ended, unless other threads of its process
// still run.
var ErrGone = errors.New("process is gone")

// An ID identifies one process until the machine restarts.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of proc(5) stat, in clock ticks since boot
}

// Of returns the ID of the process that has this pid now, or ErrGone if there is none.
func Of(pid int) (ID, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			err = ErrGone
		}
		return ID{}, fmt.Errorf("process %d: %w", pid, err)
	}
	// The command's name is in parentheses and may contain any byte, also ')'.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return ID{}, fmt.Errorf("process %d: unexpected content of its stat file %q", pid, stat)
	}
	// fields[17] is num_threads. If the first thread ends before the others, the state is Z
	// while the others still run.
	if state, threads := fields[0][0], string(fields[17]); state == 'X' || state == 'Z' && (threads == "0" || threads == "1") {
		return ID{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return ID{}, fmt.Errorf("process %d: read its start time: %w", pid, err)
	}
	return ID{PID: pid, Start: start}, nil
}

// Alive reports whether the process with this ID still runs.
func (id ID) Alive() bool {
	now, err := Of(id.PID)
	return err == nil && now == id
}

// WriteFile replaces the file at path atomically by one with the ID.
func (id ID) WriteFile(path string) error {
	data, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

// ReadFile returns the ID that WriteFile stored at path.
func ReadFile(path string) (ID, error) {
	var id ID
	data, err := os.ReadFile(path)
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(data, &id); err != nil || id.PID <= 0 {
		return ID{}, fmt.Errorf("%s does not hold a process id", path)
	}
	return id, nil
}

// A Handle is an open pidfd of one process. Its methods may be called from any goroutine. It
// owns one goroutine, runWait, which Close ends.
type Handle struct {
	id   ID
	file *os.File
	done chan struct{}
}

// Open returns a Handle of the process, or ErrGone if it has ended.
func (id ID) Open() (*Handle, error) {
	if id.PID <= 0 {
		return nil, fmt.Errorf("process %d: %w", id.PID, ErrGone)
	}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = ErrGone
		}
		return nil, fmt.Errorf("process %d: %w", id.PID, err)
	}
	file := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", id.PID))
	// Compare after opening: from now on the pidfd refers to this process even if its pid is
	// reused.
	if !id.Alive() {
		file.Close()
		return nil, fmt.Errorf("process %d: %w", id.PID, ErrGone)
	}
	h := &Handle{id: id, file: file, done: make(chan struct{})}
	go h.runWait()
	return h, nil
}

// ID returns the ID of the process.
func (h *Handle) ID() ID { return h.id }

// Done returns a channel that is closed when the process has ended.
func (h *Handle) Done() <-chan struct{} { return h.done }

// runWait closes done when the process has ended. It waits in the runtime's poller and takes
// no thread, because a node has many instances.
func (h *Handle) runWait() {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return
	}
	ended := false
	conn.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		ended = err == nil && n == 1
		return ended
	})
	if ended {
		close(h.done)
	}
}

// Signal sends sig to the process. It returns nil if the process has ended.
func (h *Handle) Signal(sig unix.Signal) error {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if sent != nil && !errors.Is(sent, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", h.id.PID, sent)
	}
	return nil
}

// Duplicate returns a duplicate, in this process, of a descriptor that the other process has
// open.
func (h *Handle) Duplicate(descriptor int) (*os.File, error) {
	conn, err := h.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var file *os.File
	var failed error
	if err := conn.Control(func(fd uintptr) {
		var duplicate int
		if duplicate, failed = unix.PidfdGetfd(int(fd), descriptor, 0); failed == nil {
			file = os.NewFile(uintptr(duplicate), fmt.Sprintf("process %d, descriptor %d", h.id.PID, descriptor))
		}
	}); err != nil {
		return nil, err
	}
	if errors.Is(failed, unix.ESRCH) {
		failed = ErrGone
	}
	if failed != nil {
		return nil, fmt.Errorf("descriptor %d of process %d: %w", descriptor, h.id.PID, failed)
	}
	return file, nil
}

// Kill sends SIGKILL and waits until the process has ended or ctx is done.
func (h *Handle) Kill(ctx context.Context) error {
	if err := h.Signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d to end: %w", h.id.PID, ctx.Err())
	}
}

// Close closes the pidfd. It does not end the process, and does not close Done.
func (h *Handle) Close() error { return h.file.Close() }

// Kill kills the process with this ID, if it still runs, and waits until it has ended.
func Kill(ctx context.Context, id ID) error {
	h, err := id.Open()
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Kill(ctx)
}

// List returns the IDs of the processes for whose pid match returns true, except this
// process and those that have ended meanwhile.
func List(match func(pid int) bool) ([]ID, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var ids []ID
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || !match(pid) {
			continue
		}
		if id, err := Of(pid); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// NamespacedPID returns the pid of a process in its innermost pid namespace, and the depth
// of that namespace. Depth 1 is the namespace of the caller. It returns 0, 0 for a process
// that has ended.
func NamespacedPID(pid int) (inner, depth int) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(status)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(list)
			inner, _ = strconv.Atoi(fields[len(fields)-1])
			return inner, len(fields)
		}
	}
	return 0, 0
}
