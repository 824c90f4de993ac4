package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sinkBuffer is what a socket of the sink asks to hold, in bytes: some 60,000 small
	// datagrams, which is more than arrive while it sleeps.
	sinkBuffer = 64 << 20
	// sinkPause is how long the sink sleeps between two looks while datagrams arrive. It
	// looks rather than waits, so that the contestant's deliveries wake nobody.
	sinkPause = time.Millisecond
	// sinkPatience is how many looks in vain there are before the sink waits.
	sinkPatience = 200
	// meminfoDrops is the index of the drops in what SO_MEMINFO returns (linux/sock_diag.h),
	// of meminfoVars.
	meminfoDrops = 8
	meminfoVars  = 9
)

// A sink receives UDP datagrams on some ports, and counts them. Each port has a goroutine
// and a thread, which end with the process.
type sink struct {
	fds      []int
	received atomic.Uint64
	failed   atomic.Pointer[error]
}

func newSink(address netip.Addr, port, ports int) (*sink, error) {
	s := &sink{}
	for i := range ports {
		fd, err := bound(netip.AddrPortFrom(address, uint16(port+i)), unix.SOCK_DGRAM)
		if err != nil {
			return nil, err
		}
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sinkBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sinkBuffer) // as much as net.core.rmem_max grants
		}
		s.fds = append(s.fds, fd)
	}
	for _, fd := range s.fds {
		go s.runPort(fd)
	}
	return s, nil
}

// count is what the sink has seen. The kernel counts what it drops in 32 bits, which would
// take hours to come round.
func (s *sink) count() (Count, error) {
	if failed := s.failed.Load(); failed != nil {
		return Count{}, *failed
	}
	var c Count
	for _, fd := range s.fds {
		drops, err := socketDrops(fd)
		if err != nil {
			return Count{}, err
		}
		c.Dropped += uint64(drops)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return Count{}, err
	}
	c.Received, c.At = s.received.Load(), time.Duration(now.Nano())
	return c, nil
}

// socketDrops is how many datagrams a socket has had no room for, or refused for a wrong
// checksum.
func socketDrops(fd int) (uint32, error) {
	var info [meminfoVars]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("SO_MEMINFO: %w", errno)
	}
	return info[meminfoDrops], nil
}

// runPort reads a socket until the process ends. What it reads is cut off after a few
// bytes: copying the rest would be the sink's work, and nobody's question.
func (s *sink) runPort(fd int) {
	runtime.LockOSThread()
	var messages [batch]mmsghdr
	var vectors [batch]unix.Iovec
	buffer := make([]byte, 16)
	for i := range messages {
		vectors[i].Base = &buffer[0]
		vectors[i].SetLen(len(buffer))
		messages[i].header.Iov = &vectors[i]
		messages[i].header.SetIovlen(1)
	}
	for vain := 0; ; {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0 && errno != unix.EAGAIN:
			err := fmt.Errorf("the sink: %w", errno)
			s.failed.Store(&err)
			return
		case errno == 0:
			vain = 0
			s.received.Add(uint64(n))
			if n == batch {
				continue
			}
			fallthrough
		default:
			vain++
			if err := s.rest(fd, vain); err != nil {
				s.failed.Store(&err)
				return
			}
		}
	}
}

// rest sleeps a moment, or, when nothing has come for long, until something does.
func (s *sink) rest(fd, vain int) error {
	if vain < sinkPatience {
		pause := unix.NsecToTimespec(int64(sinkPause))
		_ = unix.Nanosleep(&pause, nil)
		return nil
	}
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("the sink waits: %w", err)
	}
	return nil
}
