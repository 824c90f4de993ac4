package overlay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sockaddr is an address as the kernel takes it.
type sockaddr struct {
	raw [unix.SizeofSockaddrInet6]byte
	len uintptr
}

// newSockaddr lays out sockaddr_in or sockaddr_in6.
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

// sendTo and receiveFrom enter the kernel without telling the scheduler: the socket never
// blocks.
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

// receiveFrom reads a datagram into d.in, and who sent it into d.sender.
func (d *Device) receiveFrom() (int, error) {
	for {
		size := uint32(len(d.sender.raw))
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(d.socket),
			uintptr(unsafe.Pointer(&d.in.b)), uintptr(len(d.in.b)), 0, uintptr(unsafe.Pointer(&d.sender.raw)), uintptr(unsafe.Pointer(&size)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EBADF, unix.ENOTSOCK, unix.EFAULT, unix.EINVAL:
			return 0, errno
		default:
			return 0, unix.EAGAIN // want of memory and the like passes
		}
	}
}

func (s *sockaddr) addrPort() netip.AddrPort {
	raw := &s.raw
	port := binary.BigEndian.Uint16(raw[2:])
	if binary.NativeEndian.Uint16(raw[:]) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])), port)
}

// boundTo is the socket's own address.
func (d *Device) boundTo() (netip.AddrPort, error) {
	var own sockaddr
	size := uint32(len(own.raw))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(d.socket), uintptr(unsafe.Pointer(&own.raw)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}, fmt.Errorf("own address of a socket: %w", errno)
	}
	return own.addrPort(), nil
}

// QueueDrops is how many datagrams the kernel dropped because the switch did not read them
// in time.
func (d *Device) QueueDrops() (uint64, error) {
	const drops, items = 8, 9 // SK_MEMINFO_DROPS, SK_MEMINFO_VARS
	var info [items]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(d.socket), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("count the drops of the tunnels' socket: %w", errno)
	}
	return uint64(info[drops]), nil
}
