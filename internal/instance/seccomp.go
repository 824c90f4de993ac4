package instance

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deniedCalls fail with EPERM inside an instance. Most need a capability that it has not;
// they are here because a user namespace would grant it, because the kernel's check has
// been wrong before, or because what they reach (keys, clocks, swap, another mount
// namespace, asynchronous calls the filter does not see) is the machine's, not its own.
var deniedCalls = []uint32{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
	unix.SYS_FSPICK, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_SYSLOG,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME,
}

// deniedFamilies are sockets that leave the network namespace: vsock talks to the
// hypervisor under the node.
var deniedFamilies = []uint32{unix.AF_VSOCK}

// deniedIoctls put words into a terminal as if its user had typed them: `lab exec` lends
// an instance the operator's own.
var deniedIoctls = []uint32{unix.TIOCSTI, unix.TIOCLINUX}

const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Offsets in struct seccomp_data, little-endian: the low half of an argument comes first.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArg0 = 16
	offsetArg1 = 24
)

// x32Bit marks calls of the x32 ABI, which would slip past numbers of the native one.
const x32Bit = 0x40000000

// filterSystemCalls installs the filter on the calling thread; no_new_privs must be set.
func filterSystemCalls() error {
	program, err := callFilter(runtime.GOARCH)
	if err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	runtime.KeepAlive(program)
	return nil
}

// callFilter returns the filter in the kernel's classic BPF. Each check stands complete in
// itself, "if not this, skip my own return", so that a line can be added or taken out
// without counting jumps.
func callFilter(arch string) ([]unix.SockFilter, error) {
	audit := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[arch]
	if audit == 0 {
		return nil, fmt.Errorf("filter system calls: no filter for %s", arch)
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	errno := func(e unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
	}
	// skip jumps over n instructions when the condition does not hold.
	skip := func(condition uint16, k uint32, n uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | condition | unix.BPF_K, K: k, Jf: n}
	}
	p := []unix.SockFilter{
		load(offsetArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: audit, Jt: 1}, // 32-bit calls have other numbers
		errno(unix.EPERM),
		load(offsetCall),
		skip(unix.BPF_JGE, x32Bit, 1), errno(unix.EPERM),
		// clone3 hides its flags behind a pointer; libc falls back to clone.
		skip(unix.BPF_JEQ, unix.SYS_CLONE3, 1), errno(unix.ENOSYS),
	}
	for _, call := range deniedCalls {
		p = append(p, skip(unix.BPF_JEQ, call, 1), errno(unix.EPERM))
	}
	p = append(p, skip(unix.BPF_JEQ, unix.SYS_CLONE, 3),
		load(offsetArg0), skip(unix.BPF_JSET, namespaceFlags, 1), errno(unix.EPERM))
	for _, by := range []struct {
		call, offset uint32
		denied       []uint32
	}{
		{unix.SYS_SOCKET, offsetArg0, deniedFamilies},
		{unix.SYS_IOCTL, offsetArg1, deniedIoctls},
	} {
		p = append(p, load(offsetCall), skip(unix.BPF_JEQ, by.call, uint8(1+2*len(by.denied))), load(by.offset))
		for _, value := range by.denied {
			p = append(p, skip(unix.BPF_JEQ, value, 1), errno(unix.EPERM))
		}
	}
	return append(p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}), nil
}
