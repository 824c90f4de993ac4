package instance

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// capabilities are all capabilities of an instance's root. They are valid only over the instance's
// own user and network namespace. They allow raw sockets and low ports, as on EC2, and what sshd and
// file operations need. NET_ADMIN is missing, because root must not change its interface; SYS_ADMIN,
// MKNOD, SYS_PTRACE, SYS_MODULE and DAC_READ_SEARCH are missing too.
var capabilities = []uintptr{
	unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE,
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
	unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SYS_CHROOT,
	unix.CAP_AUDIT_WRITE, // sshd refuses root logins if it cannot write audit records
}

// leaveKeyring gives the calling thread a new session keyring. Without it the instance would inherit
// the keyring of the daemon and could read its session keys. The node's root makes the new keyring,
// because each command inside needs a keyring and a user can have only 200 keys.
func leaveKeyring() error {
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && err != unix.ENOSYS {
		return fmt.Errorf("join a new session keyring: %w", err)
	}
	return nil
}

// rlimits bound resources that the kernel counts by process or by user, not by cgroup. All processes
// of one user of the instance share a limit that is counted by user.
var rlimits = map[int]uint64{
	unix.RLIMIT_NOFILE:     16384, // also bounds the descriptors in flight between processes
	unix.RLIMIT_SIGPENDING: 4096,  // queued signals, and timers
	unix.RLIMIT_MSGQUEUE:   256 << 10,
	unix.RLIMIT_MEMLOCK:    64 << 10, // bytes: an instance can lock pages of the node's programs, which are not charged to it
}

// confine takes every privilege that an instance must not have from the calling thread, permanently.
// It returns the seccomp listener on which the guard receives the guarded calls of the thread. The
// caller must have locked the thread, and must call exec next.
func confine() (listener int, err error) {
	// Until exec the process has all capabilities over the instance's namespaces, so no process
	// inside may trace it or open its /proc entries.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("make the process not dumpable, against ptrace: %w", err)
	}
	for resource, most := range rlimits {
		var limit unix.Rlimit
		if err := unix.Getrlimit(resource, &limit); err != nil {
			return -1, fmt.Errorf("read resource limit %d: %w", resource, err)
		}
		limit.Max = min(limit.Max, most)
		limit.Cur = min(limit.Cur, limit.Max)
		if err := unix.Setrlimit(resource, &limit); err != nil {
			return -1, fmt.Errorf("set resource limit %d: %w", resource, err)
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

// boundCapabilities drops from the bounding set of the calling thread every capability that is not in
// keep, so that no program that it executes can get others.
func boundCapabilities(keep []uintptr) error {
	for c := uintptr(0); c < 64; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			break // c is above the kernel's last capability
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}
