package instance

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// From linux/packet_diag.h.
const (
	packetShowRings = 0x4 // PACKET_SHOW_RING_CFG
	packetRxRing    = 2   // PACKET_DIAG_RX_RING
	packetTxRing    = 3   // PACKET_DIAG_TX_RING

	packetDiagLength = 16 // of struct packet_diag_msg
)

// A packetDiag asks the kernel which packet sockets its network namespace has. It may be
// used from any goroutine.
type packetDiag struct {
	mu     sync.Mutex // held from question to answer
	fd     int
	serial uint32
	buffer []byte
}

// newPacketDiag opens the connection to the kernel.
func newPacketDiag() (*packetDiag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return &packetDiag{fd: fd, buffer: make([]byte, 32<<10)}, nil
}

// rings returns the bytes of the rings of all packet sockets. It may wait as long as one of
// them transmits from its ring.
func (d *packetDiag) rings() (sum uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serial++
	// struct nlmsghdr and, after it, struct packet_diag_req: family, protocol, padding,
	// inode, what to show, cookie.
	request := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+20)
	request = binary.NativeEndian.AppendUint16(request, unix.SOCK_DIAG_BY_FAMILY)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request = binary.NativeEndian.AppendUint32(request, d.serial)
	request = binary.NativeEndian.AppendUint32(request, 0)
	request = append(request, unix.AF_PACKET, 0, 0, 0)
	request = binary.NativeEndian.AppendUint32(request, 0)
	request = binary.NativeEndian.AppendUint32(request, packetShowRings)
	request = append(request, make([]byte, 8)...)
	if err := unix.Sendto(d.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask for packet sockets: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(d.fd, d.buffer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("ask for packet sockets: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(d.buffer[:n])
		if err != nil {
			return 0, fmt.Errorf("ask for packet sockets: %w", err)
		}
		for _, m := range messages {
			switch {
			case m.Header.Seq != d.serial: // what an earlier call left
			case m.Header.Type == unix.NLMSG_DONE:
				return sum, nil
			case m.Header.Type == unix.NLMSG_ERROR:
				return 0, diagError(m.Data)
			case m.Header.Type == unix.SOCK_DIAG_BY_FAMILY && len(m.Data) >= packetDiagLength:
				sum += ringsOf(m.Data[packetDiagLength:])
			}
		}
	}
}

func diagError(data []byte) error {
	if len(data) >= 4 {
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(data)))
		if errno == unix.ENOENT || errno == unix.EINVAL {
			return fmt.Errorf("this kernel cannot list packet sockets (%w): instances need CONFIG_PACKET_DIAG, module packet_diag", errno)
		}
		return fmt.Errorf("ask for packet sockets: %w", errno)
	}
	return fmt.Errorf("ask for packet sockets: cannot read the answer %x", data)
}

// ringsOf sums the rings in the attributes of one socket. What it cannot read it counts as
// more than any limit.
func ringsOf(attributes []byte) (bytes uint64) {
	for len(attributes) >= unix.SizeofRtAttr {
		length, kind := int(binary.NativeEndian.Uint16(attributes)), binary.NativeEndian.Uint16(attributes[2:])
		if length < unix.SizeofRtAttr || length > len(attributes) {
			return math.MaxUint32
		}
		if kind == packetRxRing || kind == packetTxRing {
			ring, ok := ringBytes(attributes[unix.SizeofRtAttr:length]) // begins with size and number of blocks too
			if !ok {
				return math.MaxUint32
			}
			bytes += ring
		}
		attributes = attributes[min((length+3)&^3, len(attributes)):]
	}
	return bytes
}
