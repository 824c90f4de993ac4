package instance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/packet"
	"palisade/internal/process"
)

// The kernel charges most memory of sockets to no cgroup: the memory of packet, raw and netlink
// sockets, of connections that are not accepted yet, and of queues of errors and timestamps.
// Therefore the seccomp filter (seccomp.go) asks the instance's guard before the instance can make a
// packet, raw or netlink socket, a listener, a longer queue or a file lock. The guard also checks,
// several times a second, how much memory the TCP and UDP sockets hold, because their number is not
// bounded.
//
// The guard is a process of the node. It is in the instance's network namespace, but in none of its
// other namespaces, so the instance can neither see nor signal nor trace it. The launcher starts the
// guard. The guard outlives the daemon, and ends when init ends. The guard keeps no counts: before
// each new socket it asks the kernel which sockets the namespace has, including those in flight
// between processes. The guard makes the socket itself, and sets an option from its own copy of the
// argument, so the instance cannot change what was checked. If the guard is killed, the guarded calls
// of the processes inside fail with ENOSYS until the instance boots again. The next command that
// enters, or the next daemon that adopts the instance, starts another guard, which serves only the
// commands that enter afterwards.
const (
	maxPacketSockets  = 64      // sockets of AF_PACKET
	maxRawSockets     = 64      // sockets of AF_INET and AF_INET6, SOCK_RAW
	maxNetlinkSockets = 64      // sockets of AF_NETLINK
	maxLocks          = 4096    // file locks of fcntl
	maxListeners      = 64      // TCP sockets; each has up to maxBacklog waiting connections
	maxRingBytes      = 8 << 20 // bytes of the rings of all packet sockets, receive and transmit

	// The filters of packet and raw sockets run for each frame that reaches the instance, in the
	// thread of the switch that writes the frame, so all filters together must be short. Setting a
	// filter that is too long fails with ENOMEM; libpcap then filters in user space.
	maxFilterBytes = 64 << 10 // bytes of the filters of all packet sockets, as the kernel translates them
	maxFilter      = 64       // instructions of the filter of a raw or netlink socket

	// maxInternetBytes bounds the memory of all TCP and UDP sockets together. The guard kills an
	// instance whose sockets hold more, as the kernel kills processes that exceed a memory limit.
	// maxQueueBytes, which bounds their queues, is lower (cgroup.go), so no ordinary program is
	// killed.
	maxInternetBytes = 256 << 20

	// maxSocketBuffer is the largest SO_RCVBUF and SO_SNDBUF that an instance can set, in bytes. The
	// kernel doubles the value for its overhead. The limit equals the default of net.core.rmem_max in
	// Linux before 6.17.
	maxSocketBuffer = 212992
)

// Every watchInterval the guard checks how much memory the sockets hold. It skips the check if there
// are at most fewSockets, which cannot hold much.
const (
	watchInterval = 250 * time.Millisecond
	fewSockets    = 64
)

// A guard uses up to guardShare of processor time in each guardWindow, a fifth of one processor.
// After that it answers no call until the window ends. Its time is not charged to the instance, so
// the instance could otherwise use more of the node than its share.
const (
	guardWindow = 100 * time.Millisecond
	guardShare  = 20 * time.Millisecond
)

// maxOptions bounds the calls to set options or to listen that the guard handles at the same time.
// Such a call can take long: setting a ring waits for a transmission of the same socket, and closing
// the last descriptor of a socket waits for its linger time.
const maxOptions = 64

// Descriptors of a guard. A process that has a duplicate of guardSendFD can send a listener to the
// guard.
const (
	guardReceiveFD = 3
	guardSendFD    = 4
)

// guardCapabilities are all capabilities of a guard: to make packet and raw sockets, to read
// arguments of calls and descriptors of the processes inside, and to kill init.
var guardCapabilities = []uintptr{unix.CAP_NET_RAW, unix.CAP_SYS_PTRACE, unix.CAP_KILL}

// startGuard starts a guard for the instance. It returns the id of the guard process and the
// descriptor over which listeners are sent to the guard.
func startGuard(s Spec) (process.ID, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return process.ID{}, nil, fmt.Errorf("start the guard: %w", err)
	}
	receive, send := os.NewFile(uintptr(pair[0]), "guard"), os.NewFile(uintptr(pair[1]), "guard")
	defer receive.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{guardStage, s.ID, s.endFile()}
	cmd.Env = stageEnv
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{receive, send}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := onLostThread(func() error { return startConfined(cmd, s.Namespace) }); err != nil {
		send.Close()
		return process.ID{}, nil, fmt.Errorf("start the guard: %w", err)
	}
	id, err := process.Of(cmd.Process.Pid)
	go cmd.Wait() // reap the guard if it ends before this process
	if err != nil {
		send.Close()
		return process.ID{}, nil, fmt.Errorf("start the guard: %w", err)
	}
	return id, send, nil
}

// ensureGuard returns the process id of the guard of a running instance. It starts a guard if there
// is none.
func ensureGuard(s Spec, init process.ID) (process.ID, error) {
	if id, err := findGuard(s.Namespace); err == nil {
		return id, nil
	}
	id, send, err := startGuard(s)
	if err != nil {
		return process.ID{}, err
	}
	defer send.Close()
	return id, tellGuard(send, init)
}

// onLostThread runs fn on a new thread, which ends afterwards, and returns the error of fn. It does
// not use the main thread, which cannot end and whose namespaces /proc shows as the namespaces of the
// process.
func onLostThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			done <- onLostThread(fn) // the main thread is locked now, so this uses another one
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

// startConfined starts cmd, the guard, in the instance's network namespace, with guardCapabilities
// only.
func startConfined(cmd *exec.Cmd, namespace string) error {
	ns, err := unix.Open(netns.Path(namespace), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := boundCapabilities(guardCapabilities); err != nil {
		return err
	}
	return cmd.Start()
}

// findGuard returns the process id of the guard of the instance with this network namespace, or
// ErrGone.
func findGuard(namespace string) (process.ID, error) {
	inside, err := netns.Processes(namespace)
	if err != nil {
		return process.ID{}, err
	}
	for _, id := range inside {
		if isGuard(id) {
			return id, nil
		}
	}
	return process.ID{}, fmt.Errorf("find the guard of %s: %w", namespace, ErrGone)
}

// isGuard reports whether a process in the network namespace of an instance is the instance's guard.
// The instance's own processes are in a pid namespace below ours; the guard is not.
func isGuard(id process.ID) bool {
	if _, depth := process.NamespacedPID(id.PID); depth != 1 {
		return false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", id.PID))
	return err == nil && bytes.HasPrefix(cmdline, []byte(guardStage+"\x00"))
}

// dialGuard returns the descriptor over which listeners are sent to a running guard.
func dialGuard(id process.ID) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil || !id.Alive() {
		return nil, fmt.Errorf("connect to the guard: %w", ErrGone)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, guardSendFD, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to the guard: %w", err)
	}
	return os.NewFile(uintptr(fd), "guard"), nil
}

// The kinds of messages to a guard. Each message carries descriptors.
const (
	messageInit     = "init"     // the pidfd of the instance's init
	messageListener = "listener" // the listener of a filter, and the socket for the guard's answer
)

// tellGuard tells the guard which process is the instance's init.
func tellGuard(guard *os.File, init process.ID) error {
	pidfd, err := unix.PidfdOpen(init.PID, 0)
	if err != nil {
		return fmt.Errorf("open the process of init for the guard: %w", err)
	}
	defer unix.Close(pidfd)
	if err := unix.Sendmsg(int(guard.Fd()), []byte(messageInit), unix.UnixRights(pidfd), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("tell the guard which process is init: %w", err)
	}
	return nil
}

// guardTimeout bounds how long a stage waits for the guard's answer, and how long a guard waits until
// it is told the process of init. A guard answers within milliseconds.
const guardTimeout = 5 * time.Second

const guardAccepts = "accepted"

// handOver sends a listener of guarded calls to the guard and waits until the guard has accepted the
// listener.
func handOver(guard *os.File, listener int) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("connect to the guard: %w", err)
	}
	defer unix.Close(pair[0])
	err = unix.Sendmsg(int(guard.Fd()), []byte(messageListener), unix.UnixRights(listener, pair[1]), nil, unix.MSG_NOSIGNAL)
	unix.Close(pair[1]) // so that the read below ends if the guard dies
	if err != nil {
		return fmt.Errorf("connect to the guard: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(guardTimeout))
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("connect to the guard: %w", err)
	}
	answer := make([]byte, 512)
	n, err := unix.Read(pair[0], answer)
	switch {
	case err != nil:
		return fmt.Errorf("wait for the guard's answer: %w", err)
	case n == 0:
		return errors.New("the guard ended before it answered")
	case string(answer[:n]) != guardAccepts:
		return fmt.Errorf("the guard does not accept the listener: %s", answer[:n])
	}
	return nil
}

// A guard decides the guarded calls of the instance in its network namespace (guard_calls.go). The
// goroutine of runGuard owns the fields of the guard. Only this goroutine receives calls and makes
// sockets, so that the count of sockets does not change between the check and the new socket. Up to
// maxOptions other goroutines set options and listen. A goroutine holds at most one of the mutexes,
// and may then call methods of diag, whose own mutex is a leaf.
type guard struct {
	problem   error // why the guard cannot accept listeners; nil: it accepts them
	diag      *sockDiag
	before    map[string]int // number of sockets by protocol before the instance started, including the guard's own sockets
	endFile   string         // path of the file that gets the reason when the guard kills the instance
	init      int            // pidfd of the instance's init, or -1
	listeners []int          // listeners of seccomp filters, from which calls are received

	sockstat int       // descriptor of /proc/net/sockstat
	looked   time.Time // when the method watch last ran
	locks    int       // file locks at the last count
	requests int       // number of lock requests that are admitted before the next count

	window time.Time     // when the current guardWindow began
	spent  time.Duration // the guard's processor time when window began

	options chan struct{} // one element for each running goroutine, at most maxOptions
	rings   sync.Mutex    // held from summing the existing rings until the new ring is set
	filters sync.Mutex    // held from summing the existing filters until the new filter is set
	listens sync.Mutex    // held from counting the listeners until the new socket listens
}

// runGuard is the guard stage. It returns when init has ended.
func runGuard([]string) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	unix.CloseOnExec(guardReceiveFD)
	unix.CloseOnExec(guardSendFD)
	packet.ReleaseMemory()
	g := &guard{endFile: os.Args[2], init: -1, options: make(chan struct{}, maxOptions)}
	g.problem = g.prepare()
	for {
		again, err := g.turn()
		if err != nil || !again {
			return err
		}
	}
}

// prepare opens what the guard reads. It returns an error if the kernel cannot answer one of the
// queries that the guard needs.
func (g *guard) prepare() (err error) {
	if g.diag, err = newSockDiag(); err != nil {
		return err
	}
	if _, err = g.diag.rings(); err != nil {
		return err
	}
	if g.sockstat, err = unix.Open("/proc/self/net/sockstat", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open /proc/net/sockstat: %w", err)
	}
	if _, err = g.diag.listeners(); err != nil {
		return err
	}
	if _, err = g.diag.memory(); err != nil {
		return err
	}
	if g.before, err = countSockets(); err != nil {
		return err
	}
	for _, protocol := range []string{"PACKET", "RAW", "NETLINK"} {
		if _, ok := g.before[protocol]; !ok {
			return fmt.Errorf("this kernel does not count %s sockets in /proc/net/protocols", protocol)
		}
	}
	return nil
}

// turn waits until calls or a message arrive, or watchInterval has passed, and handles them. It
// returns false when init has ended.
func (g *guard) turn() (again bool, err error) {
	g.throttle()
	fds := append(make([]unix.PollFd, 0, 2+len(g.listeners)),
		unix.PollFd{Fd: guardReceiveFD, Events: unix.POLLIN}, unix.PollFd{Fd: int32(g.init), Events: unix.POLLIN})
	for _, fd := range g.listeners {
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	timeout := guardTimeout // before the guard knows init; the launcher may have died
	if g.init >= 0 {
		timeout = watchInterval
	}
	n, err := unix.Poll(fds, int(timeout.Milliseconds()))
	if err == unix.EINTR {
		return true, nil
	}
	if err != nil || n == 0 && g.init < 0 || fds[1].Revents != 0 {
		return false, err
	}
	if now := time.Now(); now.Sub(g.looked) >= watchInterval {
		g.looked = now
		g.watch()
	}
	kept := g.listeners[:0]
	for i, fd := range g.listeners {
		switch events := fds[2+i].Revents; {
		case events&unix.POLLIN != 0:
			g.answer(fd)
			kept = append(kept, fd)
		case events != 0: // the last process with this filter has ended
			unix.Close(fd)
		default:
			kept = append(kept, fd)
		}
	}
	g.listeners = kept
	if fds[0].Revents != 0 {
		g.receive()
	}
	return true, nil
}

// throttle sleeps until the current guardWindow ends if the guard has used guardShare of processor
// time in it.
func (g *guard) throttle() {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used); err != nil {
		return
	}
	now, cpu := time.Now(), time.Duration(used.Nano())
	if now.Sub(g.window) >= guardWindow {
		g.window, g.spent = now, cpu
	}
	if cpu-g.spent > guardShare {
		time.Sleep(guardWindow - now.Sub(g.window))
	}
}

// watch kills the instance if its TCP and UDP sockets hold too much memory.
func (g *guard) watch() {
	// The line "sockets: used 12" counts the sockets of all families. Reading it is faster than
	// summing their memory, which is not needed if they are few.
	var head [32]byte
	n, err := unix.Pread(g.sockstat, head[:], 0)
	number, _, _ := bytes.Cut(bytes.TrimPrefix(head[:max(n, 0)], []byte("sockets: used ")), []byte("\n"))
	if sockets, bad := strconv.Atoi(string(number)); err == nil && bad == nil && sockets <= fewSockets {
		return
	}
	if sum, err := g.diag.memory(); err == nil && sum > maxInternetBytes && g.init >= 0 {
		why := fmt.Sprintf("its sockets held %d MiB of the node's memory, more than %d", sum>>20, maxInternetBytes>>20)
		os.WriteFile(g.endFile, []byte(why), 0o600)
		unix.PidfdSendSignal(g.init, unix.SIGKILL, nil, 0)
	}
}

// receive handles a message that another stage has sent to the guard.
func (g *guard) receive() {
	message, rights := make([]byte, 16), make([]byte, unix.CmsgSpace(2*4))
	n, rn, _, _, err := unix.Recvmsg(guardReceiveFD, message, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return
	}
	var fds []int
	if controls, err := unix.ParseSocketControlMessage(rights[:rn]); err == nil && len(controls) == 1 {
		fds, _ = unix.ParseUnixRights(&controls[0])
	}
	switch kind := string(message[:n]); {
	case kind == messageInit && len(fds) == 1 && g.init < 0:
		g.init = fds[0]
	case kind == messageListener && len(fds) == 2 && g.problem == nil:
		g.listeners = append(g.listeners, fds[0])
		unix.Write(fds[1], []byte(guardAccepts))
		unix.Close(fds[1])
	default:
		if kind == messageListener && len(fds) == 2 {
			unix.Write(fds[1], []byte(g.problem.Error()))
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}
