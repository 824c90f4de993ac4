package instance

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// capabilities is all that root inside an instance may hold, over its own user and network
// namespace alone: raw sockets and low ports, as on EC2, and what sshd and ordinary file work need. No NET_ADMIN (its interface is
// not its own), no SYS_ADMIN, MKNOD, SYS_PTRACE, SYS_MODULE, DAC_READ_SEARCH.
var capabilities = []uintptr{
	unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE,
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
	unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SYS_CHROOT,
	unix.CAP_AUDIT_WRITE, // sshd ends a root login when the audit system refuses it
}

// leaveKeyring gives the calling thread a new session keyring. A keyring is shared along the
// fork: without a new one, the daemon's session keys would be readable inside. It is made by
// the node's root, because a user may have 200 keys only, and each command inside has one.
func leaveKeyring() error {
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && err != unix.ENOSYS {
		return fmt.Errorf("join a new session keyring: %w", err)
	}
	return nil
}

// rlimits bound what the kernel counts for a process or a user and not for a cgroup. A user
// of the instance has them in all its processes together, and its root is a user of its own.
var rlimits = map[int]uint64{
	unix.RLIMIT_NOFILE:     16384, // also the descriptors in flight between processes
	unix.RLIMIT_SIGPENDING: 4096,  // queued signals, and timers
	unix.RLIMIT_MSGQUEUE:   256 << 10,
	unix.RLIMIT_MEMLOCK:    64 << 10, // locked pages of the node's programs are charged to nobody inside
}

// confine takes from the calling thread, for good, whatever an instance must not have, and
// returns what the guard answers the thread's calls by. The thread must be locked and
// should go on to exec.
func confine() (listener int, err error) {
	// Until exec the process has every capability over the instance's namespaces: nobody
	// inside may trace it or open its /proc entries.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("hide from ptrace: %w", err)
	}
	for resource, most := range rlimits {
		var limit unix.Rlimit
		if err := unix.Getrlimit(resource, &limit); err != nil {
			return -1, fmt.Errorf("read limit %d: %w", resource, err)
		}
		limit.Max = min(limit.Max, most)
		limit.Cur = min(limit.Cur, limit.Max)
		if err := unix.Setrlimit(resource, &limit); err != nil {
			return -1, fmt.Errorf("set limit %d: %w", resource, err)
		}
	}
	var keep uint64
	for _, c := range capabilities {
		keep |= 1 << c
	}
	if err := boundCapabilities(capabilities); err != nil {
		return -1, err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("set no_new_privs: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(keep), Permitted: uint32(keep)},
		{Effective: uint32(keep >> 32), Permitted: uint32(keep >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return -1, fmt.Errorf("set capabilities: %w", err)
	}
	return filterSystemCalls()
}

// boundCapabilities makes keep all that the calling thread, and what it executes, can have.
func boundCapabilities(keep []uintptr) error {
	for c := uintptr(0); c < 64; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			break // beyond the kernel's last capability
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}
