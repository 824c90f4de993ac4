package overlay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"palisade/internal/failpoint"
)

// A sockaddr is an address in the kernel's format.
type sockaddr struct {
	raw [unix.SizeofSockaddrInet6]byte
	len uintptr
}

// newSockaddr returns an address as a sockaddr_in or sockaddr_in6.
func newSockaddr(a netip.AddrPort) sockaddr {
	var s sockaddr
	binary.BigEndian.PutUint16(s.raw[2:], a.Port())
	if ip := a.Addr(); ip.Is4() {
		binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET)
		copy(s.raw[4:], ip.AsSlice())
		s.len = unix.SizeofSockaddrInet4
	} else {
		binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET6)
		copy(s.raw[8:], ip.AsSlice())
		s.len = unix.SizeofSockaddrInet6
	}
	return s
}

// sendTo sends one datagram. Like sendTrain and receiveTrain it bypasses the scheduler of
// goroutines, because the socket never blocks.
func (d *Device) sendTo(b []byte, to *sockaddr) error {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(d.socket),
			uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, uintptr(unsafe.Pointer(&to.raw)), to.len)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// A message is the arguments of sendmsg and recvmsg except the bytes. A queue reuses its message,
// because a local one would be allocated at each call.
type message struct {
	header  unix.Msghdr
	vector  unix.Iovec
	control [32]byte // one control message: the size of each datagram except the last
}

// sendTrain sends the datagrams in b, one after the other. Each has size bytes; the last may be
// shorter.
func (d *Device) sendTrain(m *message, b []byte, size int, to *sockaddr) error {
	failpoint.Reach()
	m.vector.Base, m.vector.Len = unsafe.SliceData(b), uint64(len(b))
	control := (*unix.Cmsghdr)(unsafe.Pointer(&m.control))
	control.Level, control.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	control.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(m.control[unix.CmsgLen(0):], uint16(size))
	m.header = unix.Msghdr{Name: &to.raw[0], Namelen: uint32(to.len), Iov: &m.vector, Iovlen: 1, Control: &m.control[0]}
	m.header.SetControllen(unix.CmsgSpace(2))
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(d.socket), uintptr(unsafe.Pointer(&m.header)), 0)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// receiveTrain reads datagrams of one sender into b and returns their total length n. Each has size
// bytes; the last may be shorter.
func (d *Device) receiveTrain(m *message, b []byte, from *sockaddr) (n, size int, err error) {
	m.vector.Base, m.vector.Len = unsafe.SliceData(b), uint64(len(b))
	for {
		m.header = unix.Msghdr{Name: &from.raw[0], Namelen: uint32(len(from.raw)), Iov: &m.vector, Iovlen: 1, Control: &m.control[0]}
		m.header.SetControllen(len(m.control))
		r, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(d.socket), uintptr(unsafe.Pointer(&m.header)), 0)
		switch errno {
		case 0:
			return int(r), m.segmentSize(int(r)), nil
		case unix.EINTR:
		case unix.EBADF, unix.ENOTSOCK, unix.EFAULT, unix.EINVAL:
			return 0, 0, errno
		default:
			return 0, 0, unix.EAGAIN // errors such as lack of memory are temporary
		}
	}
}

// segmentSize returns the size of the datagrams in n received bytes. If the kernel names no size,
// there is one datagram, and the size is n.
func (m *message) segmentSize(n int) int {
	control := (*unix.Cmsghdr)(unsafe.Pointer(&m.control))
	if m.header.Controllen < uint64(unix.CmsgLen(4)) || control.Level != unix.SOL_UDP || control.Type != unix.UDP_GRO {
		return n
	}
	if size := int(int32(binary.NativeEndian.Uint32(m.control[unix.CmsgLen(0):]))); size > 0 && size < n {
		return size
	}
	return n
}

func (s *sockaddr) addrPort() netip.AddrPort {
	raw := &s.raw
	port := binary.BigEndian.Uint16(raw[2:])
	if binary.NativeEndian.Uint16(raw[:]) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])), port)
}

// boundTo returns the socket's local address.
func (d *Device) boundTo() (netip.AddrPort, error) {
	var own sockaddr
	size := uint32(len(own.raw))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(d.socket), uintptr(unsafe.Pointer(&own.raw)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}, fmt.Errorf("read the local address of a socket: %w", errno)
	}
	return own.addrPort(), nil
}

// QueueDrops returns how many datagrams the kernel dropped because the switch did not read them in
// time.
func (d *Device) QueueDrops() (uint64, error) {
	const drops, items = 8, 9 // SK_MEMINFO_DROPS, SK_MEMINFO_VARS
	var info [items]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(d.socket), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("read the drop counter of the tunnels' socket: %w", errno)
	}
	return uint64(info[drops]), nil
}
