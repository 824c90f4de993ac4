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

// The kernel charges most memory of sockets to no cgroup: what packet, raw and netlink
// sockets hold, connections that nobody has accepted, queues of errors and of timestamps.
// The filter of seccomp.go therefore asks the instance's guard before it lets a packet, raw
// or netlink socket, a listener, a longer queue or a file lock come to be; and the guard
// looks, many times a second, at what TCP and UDP sockets hold, whose number is not bounded.
//
// The guard is a process of the node, in the instance's network namespace and in no other
// namespace of it, so the instance can neither see nor signal nor trace it. It is started
// by the launcher, outlives the daemon as init does, and ends with init. It keeps no count
// of its own: before each new socket it asks the kernel which sockets the namespace has,
// wherever they are held, those in flight between processes included. It makes the socket
// itself and hands it over, and sets an option itself from its own copy of the argument, so
// nothing that was judged can change before it is used. Should it be killed, the calls it
// judged fail with ENOSYS until the instance boots again. The next command that enters, or
// daemon that adopts the instance, starts another, for the commands that enter from then on.
const (
	maxPacketSockets  = 64      // of AF_PACKET
	maxRawSockets     = 64      // of AF_INET and AF_INET6, SOCK_RAW
	maxNetlinkSockets = 64      // of AF_NETLINK
	maxLocks          = 4096    // of fcntl
	maxListeners      = 64      // of TCP; each holds maxBacklog connections
	maxRingBytes      = 8 << 20 // of all packet sockets, both directions

	// The filters of packet and raw sockets run for each frame that reaches the instance, in
	// the switch's thread that writes it: together they must be short. Longer ones answer
	// ENOMEM; libpcap then filters by itself.
	maxFilterBytes = 64 << 10 // of all packet sockets, as the kernel translates them
	maxFilter      = 64       // instructions of a raw or netlink socket

	// maxInternetBytes is what all TCP and UDP sockets may hold together. An instance
	// beyond it is ended, as by the kernel one is that takes more memory than it has. What
	// their usual queues hold is bounded below it (cgroup.go), so only who means to comes
	// here.
	maxInternetBytes = 256 << 20

	// maxSocketBuffer is the largest SO_RCVBUF and SO_SNDBUF of any socket. The kernel
	// doubles it for its own overhead. It is net.core.rmem_max of Linux before 6.17.
	maxSocketBuffer = 212992
)

// The guard looks at the sockets' memory this often, where there are more than
// fewSockets: that many hold little.
const (
	watchInterval = 250 * time.Millisecond
	fewSockets    = 64
)

// A guard takes guardShare of processor time in a guardWindow, a fifth of one processor, and
// then answers nothing until the window ends: its time is not charged to the instance.
const (
	guardWindow = 100 * time.Millisecond
	guardShare  = 20 * time.Millisecond
)

// maxOptions bounds the options that are being set. One can take long: a ring waits for a
// transmission of the same socket, and the last close of a socket for its linger time.
const maxOptions = 64

// Descriptors of a guard. Whoever has the second can hand over a listener.
const (
	guardReceiveFD = 3
	guardSendFD    = 4
)

// guardCapabilities are all that a guard keeps: to make packet and raw sockets, to read the
// arguments and the descriptors of the processes inside, and to end init.
var guardCapabilities = []uintptr{unix.CAP_NET_RAW, unix.CAP_SYS_PTRACE, unix.CAP_KILL}

// startGuard starts a guard of the instance and returns it, and the descriptor by which
// listeners are handed to it.
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
	go cmd.Wait() // whoever outlives it
	if err != nil {
		send.Close()
		return process.ID{}, nil, fmt.Errorf("start the guard: %w", err)
	}
	return id, send, nil
}

// ensureGuard returns the guard of an instance that runs, and starts one if it has none.
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

// onLostThread runs fn on a thread of its own, which ends with it. It is not the first one,
// which cannot end, and whose namespaces are those that others see of the process.
func onLostThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			done <- onLostThread(fn) // on another, for this one is locked
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

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

// findGuard returns the guard of the instance with this network namespace.
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
	return process.ID{}, fmt.Errorf("the guard of %s: %w", namespace, ErrGone)
}

// isGuard reports whether a process in the namespace of an instance is its guard: the
// instance's own are in a pid namespace below ours.
func isGuard(id process.ID) bool {
	if _, depth := process.NamespacedPID(id.PID); depth != 1 {
		return false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", id.PID))
	return err == nil && bytes.HasPrefix(cmdline, []byte(guardStage+"\x00"))
}

// dialGuard returns the descriptor by which listeners are handed to a guard that runs.
func dialGuard(id process.ID) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil || !id.Alive() {
		return nil, fmt.Errorf("reach the guard: %w", ErrGone)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, guardSendFD, 0)
	if err != nil {
		return nil, fmt.Errorf("reach the guard: %w", err)
	}
	return os.NewFile(uintptr(fd), "guard"), nil
}

// What a message to a guard hands over, with its descriptors.
const (
	messageInit     = "init"     // the pidfd of the instance's init
	messageListener = "listener" // what a filter asks by, and where to answer that it is taken
)

// tellGuard tells the guard which process is the instance's init.
func tellGuard(guard *os.File, init process.ID) error {
	pidfd, err := unix.PidfdOpen(init.PID, 0)
	if err != nil {
		return fmt.Errorf("open init for the guard: %w", err)
	}
	defer unix.Close(pidfd)
	if err := unix.Sendmsg(int(guard.Fd()), []byte(messageInit), unix.UnixRights(pidfd), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("tell the guard: %w", err)
	}
	return nil
}

// guardTimeout bounds what anything of the node waits for a guard, and a guard for the first
// message. A guard that has work answers within milliseconds.
const guardTimeout = 5 * time.Second

const guardAccepts = "accepted"

// handOver gives listener to the guard and returns when the guard has accepted it.
func handOver(guard *os.File, listener int) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reach the guard: %w", err)
	}
	defer unix.Close(pair[0])
	err = unix.Sendmsg(int(guard.Fd()), []byte(messageListener), unix.UnixRights(listener, pair[1]), nil, unix.MSG_NOSIGNAL)
	unix.Close(pair[1]) // so that the guard's death ends the wait
	if err != nil {
		return fmt.Errorf("reach the guard: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(guardTimeout))
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("reach the guard: %w", err)
	}
	answer := make([]byte, 512)
	n, err := unix.Read(pair[0], answer)
	switch {
	case err != nil:
		return fmt.Errorf("wait for the guard: %w", err)
	case n == 0:
		return errors.New("the guard ended before it answered")
	case string(answer[:n]) != guardAccepts:
		return fmt.Errorf("the guard refuses: %s", answer[:n])
	}
	return nil
}

// A guard judges what the instance in its network namespace asks for (guard_judge.go). One goroutine reads
// the questions and makes sockets, so that two can never be made on one count. Options are
// set by goroutines of their own, at most maxOptions.
type guard struct {
	problem   error // why it can take no listener
	diag      *sockDiag
	before    map[string]int // sockets there were before the instance's, our own included
	endFile   string         // where to say why the instance is ended
	init      int            // pidfd, or -1
	listeners []int          // descriptors of filters

	sockstat int       // /proc/net/sockstat of the namespace
	looked   time.Time // when watch looked last
	locks    int       // there were at the last count
	requests int       // for locks since

	window time.Time     // when it began
	spent  time.Duration // of processor time when it began

	options chan struct{}
	rings   sync.Mutex // held from the sum of the rings until the new one is in it
	filters sync.Mutex // held from the sum of the filters until the new one is in it
	listens sync.Mutex // held from the number of listeners until the new one is in it
}

// runGuard is the stage.
func runGuard([]string) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	unix.CloseOnExec(guardReceiveFD)
	unix.CloseOnExec(guardSendFD)
	packet.Shed()
	g := &guard{endFile: os.Args[2], init: -1, options: make(chan struct{}, maxOptions)}
	g.problem = g.prepare()
	for {
		again, err := g.turn()
		if err != nil || !again {
			return err
		}
	}
}

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

// turn waits for something to do and does it. It returns false when init has ended.
func (g *guard) turn() (again bool, err error) {
	g.throttle()
	fds := append(make([]unix.PollFd, 0, 2+len(g.listeners)),
		unix.PollFd{Fd: guardReceiveFD, Events: unix.POLLIN}, unix.PollFd{Fd: int32(g.init), Events: unix.POLLIN})
	for _, fd := range g.listeners {
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	timeout := guardTimeout // a launcher that died has no init
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
		case events != 0: // the last process under that filter has ended
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

// throttle sleeps until the window ends, if the guard has taken its share of it.
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

// watch ends the instance if its TCP and UDP sockets hold too much.
func (g *guard) watch() {
	// "sockets: used 12", of every family. This is read often, and the sum takes longer.
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

// receive takes what a stage of the node hands over.
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
