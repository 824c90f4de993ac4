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

// A question is a system call that a filter holds until it is answered; seccomp(2),
// "SECCOMP_IOCTL_NOTIF_RECV". Whoever asks cannot run meanwhile, but others can change the
// memory that its arguments point to.
type question struct {
	listener int
	id       uint64
	tid      int // of the thread, as the node numbers it
	call     int32
	args     [6]uint64
}

// struct seccomp_notif, its answer and struct seccomp_notif_addfd.
type (
	rawQuestion struct {
		ID    uint64
		TID   uint32
		Flags uint32
		Call  int32
		Arch  uint32
		IP    uint64
		Args  [6]uint64
	}
	rawAnswer struct {
		ID    uint64
		Value int64
		Errno int32
		Flags uint32
	}
	rawGift struct {
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

func receiveQuestion(listener int) (*question, error) {
	var raw rawQuestion
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&raw)); err != nil {
		return nil, err
	}
	return &question{listener: listener, id: raw.ID, tid: int(raw.TID), call: raw.Call, args: raw.Args}, nil
}

// fail lets the call return err, or 0 if it is nil.
func (q *question) fail(err error) {
	raw := rawAnswer{ID: q.id}
	if err != nil {
		errno := unix.EPERM
		errors.As(err, &errno)
		raw.Errno = -int32(errno)
	}
	ioctl(q.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&raw))
}

// proceed lets the kernel do the call. What its arguments point to may have changed by then.
func (q *question) proceed() {
	raw := rawAnswer{ID: q.id, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	ioctl(q.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&raw))
}

// give lets the call return a new descriptor of what fd is. The descriptor comes to be
// with the answer, or not at all.
func (q *question) give(fd int, closeOnExec bool) {
	raw := rawGift{ID: q.id, Flags: unix.SECCOMP_ADDFD_FLAG_SEND, FD: uint32(fd)}
	if closeOnExec {
		raw.DescriptorFlag = unix.O_CLOEXEC
	}
	// A signal between the answer and the descriptor leaves the answer alone, which is 0
	// (kernel/seccomp.c, seccomp_notify_addfd): the call would return standard input. The
	// runtime signals its threads all the time.
	err := withoutSignals(func() error { return ioctl(q.listener, ioctlAddFD, unsafe.Pointer(&raw)) })
	if err != nil {
		q.fail(err) // EMFILE: its table is full
	}
}

// withoutSignals calls f on a thread that no signal reaches meanwhile.
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

// valid reports whether the thread still waits. What was opened by its number before is
// then surely its own.
func (q *question) valid() bool {
	return ioctl(q.listener, ioctlValid, unsafe.Pointer(&q.id)) == nil
}

// maxValue is the longest option that is judged.
const maxValue = 64

// value copies the option that the arguments of setsockopt point to.
func (q *question) value() ([]byte, error) {
	length := int32(q.args[4])
	if length < 0 || length > maxValue {
		return nil, unix.EINVAL
	}
	if length == 0 {
		return nil, nil
	}
	return q.read(q.args[3], int(length))
}

// read copies memory of the thread.
func (q *question) read(address uint64, length int) ([]byte, error) {
	value := make([]byte, length)
	local := []unix.Iovec{{Base: &value[0]}}
	local[0].SetLen(len(value))
	n, err := unix.ProcessVMReadv(q.tid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(value)}}, 0)
	if err != nil || n != len(value) || !q.valid() {
		return nil, unix.EFAULT
	}
	return value, nil
}

// filter copies the program of a struct sock_fprog: its length, padding, its address.
func (q *question) filter(fprog []byte) ([]unix.SockFilter, error) {
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

// descriptor returns a descriptor of ours for what fd is to the thread.
func (q *question) descriptor(fd int) (int, error) {
	pidfd, err := unix.PidfdOpen(q.tid, unix.PIDFD_THREAD)
	if err == unix.EINVAL { // before Linux 6.9, of whole processes only
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

// processOf returns the process that a thread belongs to.
func processOf(tid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	_, rest, _ := strings.Cut(string(status), "Tgid:")
	var pid int
	fmt.Sscan(rest, &pid)
	return pid
}

// ringBytes returns what a struct tpacket_req, or tpacket_req3, asks for: a block comes as
// a power of two of pages.
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

// parseMembership reads a struct packet_mreq.
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
