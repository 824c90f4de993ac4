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
	// sinkBuffer is the receive buffer of a socket of the sink, in bytes. It holds about
	// 60,000 small datagrams, more than arrive while the sink sleeps.
	sinkBuffer = 64 << 20
	// sinkPause is how long the sink sleeps between two reads while datagrams arrive. The
	// sink does not block in a read, so that no contestant pays for waking it.
	sinkPause = time.Millisecond
	// sinkPatience is the number of reads without a datagram before the sink blocks.
	sinkPatience = 200
	// meminfoDrops is the index of the drops among the meminfoVars values of SO_MEMINFO
	// (linux/sock_diag.h).
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
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sinkBuffer) // the kernel limits it to net.core.rmem_max
		}
		s.fds = append(s.fds, fd)
	}
	for _, fd := range s.fds {
		go s.runPort(fd)
	}
	return s, nil
}

// count returns the counters of the sink. The kernel's drop counter has 32 bits, which
// overflow only after hours.
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

// socketDrops returns the number of datagrams that a socket dropped because its buffer was
// full or the checksum was wrong.
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

// runPort reads a socket until the process ends. It reads only a few bytes of each datagram:
// copying all of it would add the cost of the sink to every contestant.
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
	for idle := 0; ; {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0 && errno != unix.EAGAIN:
			err := fmt.Errorf("the sink: %w", errno)
			s.failed.Store(&err)
			return
		case errno == 0:
			idle = 0
			s.received.Add(uint64(n))
			if n == batch {
				continue
			}
			fallthrough
		default:
			idle++
			if err := s.wait(fd, idle); err != nil {
				s.failed.Store(&err)
				return
			}
		}
	}
}

// wait sleeps for a moment. After many reads without a datagram it waits until one arrives.
func (s *sink) wait(fd, idle int) error {
	if idle < sinkPatience {
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
