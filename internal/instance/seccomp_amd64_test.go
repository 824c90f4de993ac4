package instance

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A call is a system call as the seccomp filter sees it: a struct seccomp_data.
type call struct {
	number, arch uint32
	args         [3]uint64
}

// word returns the 32 bits at an offset of struct seccomp_data.
func (c call) word(offset uint32) uint32 {
	switch offset {
	case 0:
		return c.number
	case 4:
		return c.arch
	case 16:
		return uint32(c.args[0])
	case 24:
		return uint32(c.args[1])
	case 32:
		return uint32(c.args[2])
	}
	return 0
}

// result interprets a filter for the call, as the kernel does (Documentation/networking/filter.rst),
// and returns the decision. It implements only the instructions that our filter uses.
func (c call) result(t *testing.T, program []unix.SockFilter) uint32 {
	t.Helper()
	var a uint32
	for at := 0; at < len(program); at++ {
		i := program[at]
		holds := false
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = c.word(i.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = a == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = a >= i.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			holds = a&i.K != 0
		default:
			t.Fatalf("instruction %d is not implemented in this test: %+v", at, i)
		}
		if holds {
			at += int(i.Jt)
		} else {
			at += int(i.Jf)
		}
	}
	t.Fatal("the filter ends without a decision")
	return 0
}

// TestFilterRefusesDeniedCalls runs the filter on each call that an instance must not make, by its
// number in the kernel's table for amd64, and on some calls that an instance must be able to make.
func TestFilterRefusesDeniedCalls(t *testing.T) {
	const native, i386 = 0xc000003e, 0x40000003
	const allow, refuse, unknown = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	program, err := callFilter("amd64")
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, c call, want uint32) {
		t.Helper()
		if got := c.result(t, program); got != want {
			t.Errorf("decision of the filter on %s: %#x, want %#x", name, got, want)
		}
	}
	for name, number := range map[string]uint32{
		"mount": 165, "umount2": 166, "pivot_root": 155, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "open_tree": 428, "move_mount": 429, "mount_setattr": 442,
		"unshare": 272, "setns": 308, "open_by_handle_at": 304, "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
		"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
		"reboot": 169, "syslog": 103, "swapon": 167, "swapoff": 168, "acct": 163, "quotactl": 179, "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305,
	} {
		check(name, call{number: number, arch: native}, refuse)
		check(name+" of x32", call{number: number | 0x40000000, arch: native}, refuse)
		check(name+" of 32 bits", call{number: number, arch: i386}, refuse)
	}
	const read, write, execve, socket, ioctl, clone, clone3, chroot = 0, 1, 59, 41, 16, 56, 435, 161
	for name, flag := range map[string]uint64{
		"mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000, "network": 0x40000000,
	} {
		check("clone into a "+name+" namespace", call{clone, native, [3]uint64{flag | uint64(unix.SIGCHLD), 0}}, refuse)
	}
	check("clone3", call{number: clone3, arch: native}, unknown)
	check("read of 32 bits", call{number: 3, arch: i386}, refuse)
	check("read of x32", call{number: 0x40000000, arch: native}, refuse)
	check("read of no architecture", call{number: read}, refuse)
	const ask, noFamily, noProtocol = unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT), unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)
	check("vsock", call{socket, native, [3]uint64{40, 1}}, noFamily)
	check("XDP", call{socket, native, [3]uint64{44, 3}}, noFamily)
	check("SCTP", call{socket, native, [3]uint64{2, 1, 132}}, noProtocol)
	check("SOCK_PACKET of IPv4", call{socket, native, [3]uint64{2, 10, 0}}, noProtocol)
	check("UDP over IPv6 for UDP-Lite", call{socket, native, [3]uint64{10, 2, 136}}, noProtocol)
	check("a raw socket", call{socket, native, [3]uint64{2, 3, 1}}, ask)
	check("a raw socket that does not block", call{socket, native, [3]uint64{10, 0x80803, 58}}, ask)
	check("a netlink socket", call{socket, native, [3]uint64{16, 3}}, ask)
	check("a ring", call{54, native, [3]uint64{5, 263, 5}}, ask)
	check("a ring with high halves", call{54, native, [3]uint64{5, 1<<32 | 263, 1<<32 | 13}}, ask)
	check("a longer queue", call{54, native, [3]uint64{5, 1, 8}}, ask)
	check("TCP_NODELAY", call{54, native, [3]uint64{5, 6, 1}}, allow)
	check("TIOCSTI", call{ioctl, native, [3]uint64{0, 0x5412}}, refuse)
	check("TIOCSTI with a high half", call{ioctl, native, [3]uint64{0, 1<<32 | 0x5412}}, refuse)
	check("TIOCLINUX", call{ioctl, native, [3]uint64{0, 0x541c}}, refuse)

	for name, number := range map[string]uint32{"read": read, "write": write, "execve": execve, "chroot": chroot} {
		check(name, call{number: number, arch: native}, allow)
	}
	check("fork", call{clone, native, [3]uint64{uint64(unix.SIGCHLD), 0}}, allow)
	check("a thread", call{clone, native, [3]uint64{0x3d0f00, 0}}, allow)
	check("a socket of TCP", call{socket, native, [3]uint64{2, 1}}, allow)
	check("a packet socket", call{socket, native, [3]uint64{17, 3}}, ask)
	check("a socket of UDP that does not block", call{socket, native, [3]uint64{10, 0x80802, 17}}, allow)
	check("a unix socket", call{socket, native, [3]uint64{1, 5}}, allow)
	check("TCGETS", call{ioctl, native, [3]uint64{0, 0x5401}}, allow)
}
