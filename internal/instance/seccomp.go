package instance

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deniedCalls fail with EPERM inside an instance. Most of them need a capability that the instance
// does not have. The filter denies them nevertheless: a new user namespace would grant the
// capability, the kernel's check has been wrong before, or the call reaches what belongs to the whole
// machine: keys, clocks, swap, other mount namespaces. Asynchronous I/O is denied because the filter
// does not see its operations and their number is limited only for the machine.
var deniedCalls = []uint32{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
	unix.SYS_FSPICK, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_IO_SETUP,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_SYSLOG,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME,
}

// internetSockets are the sockets of AF_INET and AF_INET6 that an instance can make without asking
// its guard. It can make any socket of AF_UNIX, and as many raw sockets and sockets of AF_PACKET and
// AF_NETLINK as its guard allows. Other families and protocols (vsock, which reaches the hypervisor
// below the node; XDP; TIPC; SCTP and so on) have their own memory, limits and bugs, and no image
// needs them.
var internetSockets = []struct{ kind, protocol uint32 }{
	{unix.SOCK_STREAM, 0}, {unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{unix.SOCK_DGRAM, 0}, {unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	{unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, {unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6},
}

// guardedOptions are socket options that only the guard can set, because they use memory that is
// charged to no cgroup; see guard.go.
var guardedOptions = []struct{ level, name uint32 }{
	{unix.SOL_PACKET, unix.PACKET_RX_RING}, {unix.SOL_PACKET, unix.PACKET_TX_RING},
	{unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP}, {unix.SOL_PACKET, unix.PACKET_DROP_MEMBERSHIP},
	{unix.SOL_PACKET, unix.PACKET_FANOUT},
	{unix.SOL_SOCKET, unix.SO_RCVBUF}, {unix.SOL_SOCKET, unix.SO_SNDBUF}, {unix.SOL_SOCKET, unix.SO_ATTACH_FILTER},
}

// deniedOptions are socket options that fail with EPERM. Multicast groups: the number that all
// sockets together can join is not bounded, and the switch delivers no multicast. BPF programs that
// choose among sockets, and the kernel's TLS: they use memory that is charged to no cgroup.
var deniedOptions = []struct{ level, name uint32 }{
	{unix.SOL_IP, unix.IP_ADD_MEMBERSHIP}, {unix.SOL_IP, unix.IP_ADD_SOURCE_MEMBERSHIP},
	{unix.SOL_IP, mcastJoinGroup}, {unix.SOL_IP, mcastJoinSourceGroup},
	{unix.SOL_IPV6, unix.IPV6_JOIN_GROUP}, {unix.SOL_IPV6, unix.IPV6_JOIN_ANYCAST},
	{unix.SOL_IPV6, mcastJoinGroup}, {unix.SOL_IPV6, mcastJoinSourceGroup},
	{unix.SOL_SOCKET, unix.SO_ATTACH_BPF}, {unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF}, {unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_EBPF},
	{unix.SOL_TCP, unix.TCP_ULP},
}

// From linux/in.h.
const (
	mcastJoinGroup       = 42 // MCAST_JOIN_GROUP
	mcastJoinSourceGroup = 46 // MCAST_JOIN_SOURCE_GROUP
)

// deniedIoctls are ioctls that insert input into a terminal as if its user had typed it. They are
// denied because a command that `lab exec` runs inside an instance has the operator's terminal.
var deniedIoctls = []uint32{unix.TIOCSTI, unix.TIOCLINUX}

const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Offsets in struct seccomp_data. The offset of an argument is the offset of its low half on
// little-endian machines.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArg0 = 16
	offsetArg1 = 24
	offsetArg2 = 32
)

// x32Bit is set in the number of a call of the x32 ABI, so such a number would not match the numbers
// in this file.
const x32Bit = 0x40000000

// filterSystemCalls installs the seccomp filter on the calling thread, which must have no_new_privs
// set. It returns the listener on which the guard receives guarded calls. When all duplicates of the
// listener are closed, guarded calls fail with ENOSYS.
func filterSystemCalls() (listener int, err error) {
	program, err := callFilter(runtime.GOARCH)
	if err != nil {
		return -1, err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// With WAIT_KILLABLE_RECV (since Linux 5.19), a signal does not interrupt a call that the guard
	// has received, so the guard does not receive the call a second time.
	for _, flags := range []uintptr{unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER} {
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
		if errno == 0 {
			runtime.KeepAlive(program)
			return int(fd), nil
		}
		err = errno
	}
	return -1, fmt.Errorf("filter system calls: %w", err)
}

// A callProgram is a seccomp filter in classic BPF. No check jumps out of its own instructions ("if
// not this call, skip the check's return"), so that a check can be added or removed without changing
// other jumps.
type callProgram []unix.SockFilter

var (
	allow = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	ask   = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF}
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func errno(e unix.Errno) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

// skip returns an instruction that skips the next n instructions if the condition does not hold.
func skip(condition uint16, k uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | condition | unix.BPF_K, K: k, Jf: n}
}

// The method of adds instructions that run for one system call only. If they return no decision, the
// filter continues after them.
func (p *callProgram) of(call uint32, checks ...unix.SockFilter) {
	*p = append(*p, load(offsetCall), skip(unix.BPF_JEQ, call, uint8(len(checks))))
	*p = append(*p, checks...)
}

// callFilter returns the seccomp filter for an architecture in Go's names: amd64 or arm64.
func callFilter(arch string) (callProgram, error) {
	audit := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[arch]
	if audit == 0 {
		return nil, fmt.Errorf("filter system calls: no filter for %s", arch)
	}
	p := callProgram{
		load(offsetArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: audit, Jt: 1}, // calls of another architecture, such as 32-bit calls, have other numbers
		errno(unix.EPERM),
		load(offsetCall),
		skip(unix.BPF_JGE, x32Bit, 1), errno(unix.EPERM),
		// The filter cannot check the flags of clone3, which are in memory behind a pointer. After
		// ENOSYS libc uses clone.
		skip(unix.BPF_JEQ, unix.SYS_CLONE3, 1), errno(unix.ENOSYS),
	}
	for _, call := range deniedCalls {
		p = append(p, skip(unix.BPF_JEQ, call, 1), errno(unix.EPERM))
	}
	p = append(p, skip(unix.BPF_JEQ, unix.SYS_CLONE, 3),
		load(offsetArg0), skip(unix.BPF_JSET, namespaceFlags, 1), errno(unix.EPERM))
	for _, request := range deniedIoctls {
		p.of(unix.SYS_IOCTL, load(offsetArg1), skip(unix.BPF_JEQ, request, 1), errno(unix.EPERM))
	}
	p.of(unix.SYS_LISTEN, ask)
	for _, command := range []uint32{unix.F_SETLK, unix.F_SETLKW} {
		p.of(unix.SYS_FCNTL, load(offsetArg1), skip(unix.BPF_JEQ, command, 1), ask)
	}
	for _, command := range []uint32{unix.F_OFD_SETLK, unix.F_OFD_SETLKW} { // /proc/locks does not show the owner of such locks
		p.of(unix.SYS_FCNTL, load(offsetArg1), skip(unix.BPF_JEQ, command, 1), errno(unix.EINVAL))
	}
	for _, option := range deniedOptions {
		p.of(unix.SYS_SETSOCKOPT, load(offsetArg1), skip(unix.BPF_JEQ, option.level, 3),
			load(offsetArg2), skip(unix.BPF_JEQ, option.name, 1), errno(unix.EPERM))
	}
	for _, option := range guardedOptions {
		p.of(unix.SYS_SETSOCKOPT, load(offsetArg1), skip(unix.BPF_JEQ, option.level, 3),
			load(offsetArg2), skip(unix.BPF_JEQ, option.name, 1), ask)
	}
	p.sockets()
	return append(p, allow), nil
}

// sockets adds the checks of the system call socket.
func (p *callProgram) sockets() {
	for _, family := range []uint32{unix.AF_PACKET, unix.AF_NETLINK} {
		p.of(unix.SYS_SOCKET, load(offsetArg0), skip(unix.BPF_JEQ, family, 1), ask)
	}
	kind := unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xf} // without SOCK_CLOEXEC, SOCK_NONBLOCK
	for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
		p.of(unix.SYS_SOCKET, load(offsetArg0), skip(unix.BPF_JEQ, family, 4),
			load(offsetArg1), kind, skip(unix.BPF_JEQ, unix.SOCK_RAW, 1), ask)
		for _, known := range internetSockets {
			p.of(unix.SYS_SOCKET, load(offsetArg0), skip(unix.BPF_JEQ, family, 6),
				load(offsetArg1), kind, skip(unix.BPF_JEQ, known.kind, 3),
				load(offsetArg2), skip(unix.BPF_JEQ, known.protocol, 1), allow)
		}
		p.of(unix.SYS_SOCKET, load(offsetArg0), skip(unix.BPF_JEQ, family, 1), errno(unix.EPROTONOSUPPORT))
	}
	p.of(unix.SYS_SOCKET, load(offsetArg0), skip(unix.BPF_JEQ, unix.AF_UNIX, 1), allow, errno(unix.EAFNOSUPPORT))
}
