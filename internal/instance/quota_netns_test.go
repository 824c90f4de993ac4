package instance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"palisade/internal/netns/netnstest"
)

// A userQuota is a limit that the kernel applies to each user, for all namespaces together.
type userQuota struct {
	name string
	take func() error // takes one unit of the quota, and keeps it until the process ends
}

// userQuotas are the quotas that an instance can exhaust. Two quotas are missing because an instance
// cannot make namespaces or keys (TestRootOfInstanceCannotReachNode). Watches of epoll are missing
// because an instance runs out of memory first; they are counted by user like the pages of pipes
// (struct user_struct).
var userQuotas = []userQuota{
	{"inotify instances", func() error { // fs.inotify.max_user_instances
		_, err := unix.InotifyInit1(0)
		return err
	}},
	{"inotify watches", takeWatches}, // fs.inotify.max_user_watches
	{"fanotify groups", func() error { // fs.fanotify.max_user_groups
		_, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, 0)
		return err
	}},
	{"pending signals", func() error { // RLIMIT_SIGPENDING; each timer reserves one
		var timer int32
		_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&timer)))
		return errnoOrNil(errno)
	}},
	{"message queues", takeMessageQueue},    // RLIMIT_MSGQUEUE
	{"locked memory", takeLockedMemory},     // RLIMIT_MEMLOCK
	{"pages of pipes", takePipePages},       // fs.pipe-user-pages-soft
	{"descriptors in flight", takeInFlight}, // RLIMIT_NOFILE of the sender
}

// TestInstanceCannotExhaustQuotasOfNode: when an instance has exhausted its quota, the node's root
// can still take units of its own quota. First the test shows with an unused user of the node that
// the quota is by user: when one process has exhausted it, a second process of that user gets
// nothing.
func TestInstanceCannotExhaustQuotasOfNode(t *testing.T) {
	netnstest.NeedRoot(t)
	s := newSpec(t, "quota", DefaultImage)
	boot(t, s)
	const user = firstID - 1
	for _, q := range userQuotas {
		t.Run(q.name, func(t *testing.T) {
			hold := func(start func(stdin, stdout *os.File) error) (release func()) {
				t.Helper()
				stdin, stdinW, err1 := os.Pipe()
				stdoutR, stdout, err2 := os.Pipe()
				if err := errors.Join(err1, err2); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- start(stdin, stdout); stdout.Close() }()
				line, err := bufio.NewReader(stdoutR).ReadString('\n')
				if !strings.HasPrefix(line, "held") {
					t.Fatalf("the process that holds the quota answered %q (error %v), want \"held\"", line, err)
				}
				t.Log(strings.TrimSpace(line))
				return func() {
					stdinW.Close()
					if err := <-ended; err != nil {
						t.Error(err)
					}
					stdin.Close()
					stdoutR.Close()
				}
			}
			ofUser := func(what string, stdin, stdout *os.File) error {
				cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "quota", what, q.name)
				cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stdout
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
				return cmd.Run()
			}
			release := hold(func(stdin, stdout *os.File) error { return ofUser("hold", stdin, stdout) })
			if err := ofUser("take", nil, nil); err == nil {
				t.Error("a second process of the user can still take a unit, want an error: this is not a quota by user")
			}
			release()

			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			byRoot := func() error {
				out, err := exec.Command("/proc/self/exe", "quota", "take", q.name).CombinedOutput()
				if err != nil {
					err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
				}
				return err
			}
			for deadline := time.Now().Add(patience); ; {
				release = hold(func(stdin, stdout *os.File) error {
					code, err := Exec(ctx, s.Namespace, []string{initPath, "quota", "hold", q.name}, Stdio{stdin, stdout, stdout})
					if code != 0 {
						err = fmt.Errorf("the quota probe inside ended with status %d, error %v", code, err)
					}
					return err
				})
				err := byRoot()
				release()
				if err == nil {
					break
				}
				// The failure may have another cause: other programs may have exhausted root's quota.
				// Then root gets nothing now either, although the instance has released its units,
				// and the test tries again.
				if byRoot() == nil || time.Now().After(deadline) {
					t.Fatalf("while the instance holds its quota, the node's root cannot take a unit: %v", err)
				}
			}
		})
	}
}

// probeQuota is the main function of a quota probe. If what is "take", it takes one unit of the quota
// with this name. If what is "hold", it takes all units and holds them until its standard input ends.
// It returns the exit status.
func probeQuota(what, name string) int {
	runtime.LockOSThread()
	dir, err := os.MkdirTemp("/tmp", "palisade-test-quota")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	for limit, most := range map[int]uint64{
		unix.RLIMIT_NOFILE: 1024, unix.RLIMIT_MEMLOCK: 8 << 20, unix.RLIMIT_MSGQUEUE: 800 << 10, unix.RLIMIT_SIGPENDING: 4096,
	} {
		var r unix.Rlimit
		if err := unix.Getrlimit(limit, &r); err != nil {
			fmt.Println(err)
			return 1
		}
		if r.Cur = min(r.Max, most); limit == unix.RLIMIT_NOFILE && !strings.Contains(name, "flight") {
			r.Cur = r.Max // this test is of another quota
		}
		if err := unix.Setrlimit(limit, &r); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	// The probe drops its capabilities, because they exempt the node's root from most quotas. A
	// daemon may run without them.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &new([2]unix.CapUserData)[0]); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, q := range userQuotas {
		if q.name != name {
			continue
		}
		if what == "take" {
			if err := q.take(); err != nil {
				fmt.Println(err)
				return 1
			}
			return 0
		}
		n := 0
		for n < 1<<20 {
			if err := q.take(); err != nil {
				fmt.Printf("held %d: %v\n", n, err)
				break
			}
			n++
		}
		io.Copy(io.Discard, os.Stdin)
		return 0
	}
	return 2
}

// takeWatches adds a watch of the next of 4096 files. After the last file it begins again with a new
// inotify instance.
func takeWatches() error {
	if watches%4096 == 0 {
		var err error
		if watcher, err = unix.InotifyInit1(0); err != nil {
			return err
		}
	}
	name := filepath.Join(scratch, fmt.Sprint(watches%4096))
	if watches < 4096 {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			return err
		}
	}
	watches++
	_, err := unix.InotifyAddWatch(watcher, name, unix.IN_MODIFY)
	return err
}

var (
	scratch          string // a temporary directory of the probe
	watcher, watches int
)

func takeMessageQueue() error {
	name, err := unix.BytePtrFromString(fmt.Sprintf("palisade-test-%d", os.Getpid()))
	if err != nil {
		return err
	}
	attr := [8]int64{1: 10, 2: 8192} // struct mq_attr: at most 10 messages of 8192 bytes
	_, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600, uintptr(unsafe.Pointer(&attr)), 0, 0)
	if errno == 0 { // the queue exists as long as its descriptor is open
		_, _, errno = unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0)
	}
	return errnoOrNil(errno)
}

const shmLock = 11 // SHM_LOCK of linux/shm.h

func takeLockedMemory() error {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 1<<20, unix.IPC_CREAT|0o600)
	if err != nil {
		return err
	}
	_, attachErr := unix.SysvShmAttach(id, 0, 0)
	_, lockErr := unix.SysvShmCtl(id, shmLock, nil)
	_, removeErr := unix.SysvShmCtl(id, unix.IPC_RMID, nil) // the segment exists as long as it is attached
	return errors.Join(attachErr, lockErr, removeErr)
}

// takePipePages makes a pipe and enlarges it to 1 MiB, which fails when the quota is exhausted.
func takePipePages() error {
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return err
	}
	_, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 1<<20)
	return err
}

// takeInFlight sends descriptors over a unix socket from which nobody receives them.
func takeInFlight() error {
	if sender == 0 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		sender = pair[0]
	}
	return unix.Sendmsg(sender, []byte{0}, unix.UnixRights(make([]int, 250)...), nil, 0)
}

var sender int
