package instance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A guardedCall is a system call that the filter suspends until the guard answers; seccomp(2),
// "SECCOMP_IOCTL_NOTIF_RECV". The calling thread is stopped meanwhile, but other threads can change
// the memory to which the arguments of the call point.
type guardedCall struct {
	listener int
	id       uint64
	tid      int // id of the calling thread in the node's pid namespace
	call     int32
	args     [6]uint64
}

// struct seccomp_notif, struct seccomp_notif_resp and struct seccomp_notif_addfd.
type (
	notification struct {
		ID    uint64
		TID   uint32
		Flags uint32
		Call  int32
		Arch  uint32
		IP    uint64
		Args  [6]uint64
	}
	notificationAnswer struct {
		ID    uint64
		Value int64
		Errno int32
		Flags uint32
	}
	notificationFD struct {
		ID             uint64
		Flags          uint32
		FD, NewFD      uint32
		DescriptorFlag uint32
	}
)

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		return nil
	}
}

// ioctlAddFD is SECCOMP_IOCTL_NOTIF_ADDFD.
const ioctlAddFD = 0x40182103

// ioctlValid is SECCOMP_IOCTL_NOTIF_ID_VALID.
const ioctlValid = 0x40082102

func receiveCall(listener int) (*guardedCall, error) {
	var raw notification
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&raw)); err != nil {
		return nil, err
	}
	return &guardedCall{listener: listener, id: raw.ID, tid: int(raw.TID), call: raw.Call, args: raw.Args}, nil
}

// fail ends the call with the error err, or with the result 0 if err is nil.
func (q *guardedCall) fail(err error) {
	raw := notificationAnswer{ID: q.id}
	if err != nil {
		errno := unix.EPERM
		errors.As(err, &errno)
		raw.Errno = -int32(errno)
	}
	ioctl(q.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&raw))
}

// proceed lets the kernel execute the call. The memory to which its arguments point may have changed
// since the guard checked them.
func (q *guardedCall) proceed() {
	raw := notificationAnswer{ID: q.id, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	ioctl(q.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&raw))
}

// give ends the call with a duplicate of fd as its result. The kernel makes the duplicate and sends
// the answer in one step, so there is never one without the other.
func (q *guardedCall) give(fd int, closeOnExec bool) {
	raw := notificationFD{ID: q.id, Flags: unix.SECCOMP_ADDFD_FLAG_SEND, FD: uint32(fd)}
	if closeOnExec {
		raw.DescriptorFlag = unix.O_CLOEXEC
	}
	// If a signal arrives at this thread during the ioctl, the call can return 0, which is standard
	// input (kernel/seccomp.c, seccomp_notify_addfd). The Go runtime sends signals to its threads
	// often, so they are blocked.
	err := withoutSignals(func() error { return ioctl(q.listener, ioctlAddFD, unsafe.Pointer(&raw)) })
	if err != nil {
		q.fail(err) // such as EMFILE: the calling process has too many descriptors
	}
}

// withoutSignals calls f with all signals blocked on the current thread, and returns the error of f.
func withoutSignals(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
}

// valid reports whether the calling thread still waits for the answer. If it does, what the guard
// opened or read by the tid before belongs to that thread, and not to one that reused the tid.
func (q *guardedCall) valid() bool {
	return ioctl(q.listener, ioctlValid, unsafe.Pointer(&q.id)) == nil
}

// maxValue is the length of the longest option value that setsockopt may have, in bytes.
const maxValue = 64

// value returns a copy of the option value to which the arguments of a setsockopt call point.
func (q *guardedCall) value() ([]byte, error) {
	length := int32(q.args[4])
	if length < 0 || length > maxValue {
		return nil, unix.EINVAL
	}
	if length == 0 {
		return nil, nil
	}
	return q.read(q.args[3], int(length))
}

// read returns a copy of length bytes at address in the memory of the calling thread.
func (q *guardedCall) read(address uint64, length int) ([]byte, error) {
	value := make([]byte, length)
	local := []unix.Iovec{{Base: &value[0]}}
	local[0].SetLen(len(value))
	n, err := unix.ProcessVMReadv(q.tid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(value)}}, 0)
	if err != nil || n != len(value) || !q.valid() {
		return nil, unix.EFAULT
	}
	return value, nil
}

// filter returns a copy of the program that fprog describes. fprog is a struct sock_fprog: the length
// of the program, padding, and its address.
func (q *guardedCall) filter(fprog []byte) ([]unix.SockFilter, error) {
	if len(fprog) < int(unsafe.Sizeof(unix.SockFprog{})) {
		return nil, unix.EINVAL
	}
	length := int(binary.NativeEndian.Uint16(fprog))
	if length == 0 || length > unix.BPF_MAXINSNS {
		return nil, unix.EINVAL
	}
	code, err := q.read(binary.NativeEndian.Uint64(fprog[8:]), length*unix.SizeofSockFilter)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*unix.SockFilter)(unsafe.Pointer(&code[0])), length), nil
}

// descriptor returns a duplicate, in the guard, of the calling thread's descriptor fd.
func (q *guardedCall) descriptor(fd int) (int, error) {
	pidfd, err := unix.PidfdOpen(q.tid, unix.PIDFD_THREAD)
	if err == unix.EINVAL { // before Linux 6.9 a pidfd is possible only for a whole process
		pidfd, err = unix.PidfdOpen(processOf(q.tid), 0)
	}
	if err != nil {
		return -1, unix.EPERM
	}
	defer unix.Close(pidfd)
	if !q.valid() {
		return -1, unix.EPERM
	}
	own, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return -1, err // EBADF
	}
	return own, nil
}

// processOf returns the pid of the process that the thread tid belongs to, or 0 if there is none.
func processOf(tid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	_, rest, _ := strings.Cut(string(status), "Tgid:")
	var pid int
	fmt.Sscan(rest, &pid)
	return pid
}

// ringBytes returns the size in bytes of the ring that value describes, a struct tpacket_req or
// tpacket_req3. ok is false if value is too short. The kernel rounds a block up to a power of two of
// pages.
func ringBytes(value []byte) (bytes uint64, ok bool) {
	if len(value) < 16 {
		return 0, false
	}
	return blockBytes(binary.NativeEndian.Uint32(value)) * uint64(binary.NativeEndian.Uint32(value[4:])), true
}

func blockBytes(size uint32) uint64 {
	bytes := uint64(os.Getpagesize())
	for bytes < uint64(size) {
		bytes *= 2
	}
	return bytes
}

// parseMembership decodes a struct packet_mreq without its address. ok is false if value is too
// short.
func parseMembership(value []byte) (m unix.PacketMreq, ok bool) {
	if len(value) < unix.SizeofPacketMreq {
		return m, false
	}
	m.Ifindex = int32(binary.NativeEndian.Uint32(value))
	m.Type = binary.NativeEndian.Uint16(value[4:])
	return m, true
}

func parseInt(value []byte) (int, bool) {
	if len(value) < 4 {
		return 0, false
	}
	return int(int32(binary.NativeEndian.Uint32(value))), true
}
