package instance

import (
	"encoding/binary"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// From linux/packet_diag.h, linux/inet_diag.h and linux/sock_diag.h.
const (
	packetDiagLength = 16 // of struct packet_diag_msg
	packetShowRings  = 4  // PACKET_SHOW_RING_CFG
	packetShowMemory = 16 // PACKET_SHOW_MEMINFO
	packetRxRing     = 2  // PACKET_DIAG_RX_RING
	packetTxRing     = 3  // PACKET_DIAG_TX_RING
	packetMemory     = 6  // PACKET_DIAG_MEMINFO

	inetDiagLength   = 72 // of struct inet_diag_msg
	inetSocketMemory = 7  // INET_DIAG_SKMEMINFO

	// Indices in INET_DIAG_SKMEMINFO.
	memoryReceived  = 0 // SK_MEMINFO_RMEM_ALLOC: queue and error queue
	memorySending   = 2 // SK_MEMINFO_WMEM_ALLOC
	memoryForward   = 4 // SK_MEMINFO_FWD_ALLOC
	memoryQueued    = 5 // SK_MEMINFO_WMEM_QUEUED
	memoryOptions   = 6 // SK_MEMINFO_OPTMEM: filters, source lists of multicast groups
	memoryBacklog   = 7 // SK_MEMINFO_BACKLOG
	memoryCount     = 9
	memoryOfASocket = 4 << 10 // bytes that each socket takes besides its queues

	tcpListen   = 10 // TCP_LISTEN
	tcpTimeWait = 6  // TCP_TIME_WAIT
)

// A sockDiag asks the kernel about the sockets of the network namespace in which it was opened. The
// guard opens one and uses it until the guard ends. Its methods may be called from any goroutine.
type sockDiag struct {
	mu     sync.Mutex // guards the fields below; held from the request until its answer is read
	fd     int
	serial uint32
	buffer []byte
}

// newSockDiag opens a netlink socket to the kernel.
func newSockDiag() (*sockDiag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return &sockDiag{fd: fd, buffer: make([]byte, 32<<10)}, nil
}

// rings returns the size of the rings of all packet sockets, in bytes. It waits while a packet socket
// transmits from its ring.
func (d *sockDiag) rings() (sum uint64, err error) {
	err = d.dumpPacketSockets(packetShowRings, func(kind uint16, value []byte) {
		if kind == packetRxRing || kind == packetTxRing {
			ring, _ := ringBytes(value) // value begins with the fields of a struct tpacket_req
			sum += ring
		}
	})
	return sum, err
}

// filters returns the memory of the translated filters of all packet sockets, in bytes.
func (d *sockDiag) filters() (sum uint64, err error) {
	err = d.dumpPacketSockets(packetShowMemory, func(kind uint16, value []byte) {
		if kind == packetMemory {
			sum += memoryAt(value, memoryOptions)
		}
	})
	return sum, err
}

// dumpPacketSockets calls the function each for every attribute of every packet socket. show selects
// the attributes.
func (d *sockDiag) dumpPacketSockets(show uint32, each func(kind uint16, value []byte)) error {
	// struct packet_diag_req: family, protocol, padding, inode, what to show, cookie.
	request := []byte{unix.AF_PACKET, 0, 0, 0, 0, 0, 0, 0}
	request = binary.NativeEndian.AppendUint32(request, show)
	request = append(request, make([]byte, 8)...)
	err := d.dump(request, func(message []byte) { eachAttribute(message, packetDiagLength, each) })
	if err != nil {
		return fmt.Errorf("list packet sockets (CONFIG_PACKET_DIAG): %w", err)
	}
	return nil
}

// listeners returns the number of listening TCP sockets.
func (d *sockDiag) listeners() (n int, err error) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		err := d.dump(inetRequest(family, unix.IPPROTO_TCP, 0, 1<<tcpListen), func([]byte) { n++ })
		if err != nil {
			return 0, fmt.Errorf("list TCP sockets (CONFIG_INET_DIAG, CONFIG_INET_TCP_DIAG): %w", err)
		}
	}
	return n, nil
}

// memory returns how many bytes of memory all TCP and UDP sockets hold, whether or not the memory is
// charged to the instance's cgroup.
func (d *sockDiag) memory() (sum uint64, err error) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			request := inetRequest(family, protocol, 1<<(inetSocketMemory-1), ^uint32(1<<tcpTimeWait))
			err := d.dump(request, func(message []byte) {
				sum += memoryOfASocket
				eachAttribute(message, inetDiagLength, func(kind uint16, value []byte) {
					if kind == inetSocketMemory {
						sum += socketMemory(value)
					}
				})
			})
			if err != nil {
				return 0, fmt.Errorf("list TCP and UDP sockets (CONFIG_INET_DIAG, CONFIG_INET_TCP_DIAG, CONFIG_INET_UDP_DIAG): %w", err)
			}
		}
	}
	return sum, nil
}

// memoryAt returns the entry at index of a SKMEMINFO attribute, or 0 if the attribute is too short.
func memoryAt(value []byte, index int) uint64 {
	if len(value) < 4*(memoryCount-1) {
		return 0
	}
	return uint64(binary.NativeEndian.Uint32(value[4*index:]))
}

func socketMemory(value []byte) uint64 {
	at := func(i int) uint64 { return memoryAt(value, i) }
	return at(memoryReceived) + max(at(memorySending), at(memoryQueued)) + at(memoryForward) + at(memoryOptions) + at(memoryBacklog)
}

// inetRequest returns a struct inet_diag_req_v2. Its fields are family, protocol, extensions,
// padding, states, and an empty socket id.
func inetRequest(family, protocol, extensions byte, states uint32) []byte {
	request := binary.NativeEndian.AppendUint32([]byte{family, protocol, extensions, 0}, states)
	return append(request, make([]byte, 48)...)
}

// dump sends a request and calls the function each for every message of the answer.
func (d *sockDiag) dump(request []byte, each func(message []byte)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serial++
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(request)))
	message = binary.NativeEndian.AppendUint16(message, unix.SOCK_DIAG_BY_FAMILY)
	message = binary.NativeEndian.AppendUint16(message, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	message = binary.NativeEndian.AppendUint32(message, d.serial)
	message = binary.NativeEndian.AppendUint32(message, 0)
	message = append(message, request...)
	if err := unix.Sendto(d.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, _, err := unix.Recvfrom(d.fd, d.buffer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(d.buffer[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch {
			case m.Header.Seq != d.serial: // a late answer to an earlier request
			case m.Header.Type == unix.NLMSG_DONE, m.Header.Type == unix.NLMSG_ERROR:
				return diagError(m.Data)
			default:
				each(m.Data)
			}
		}
	}
}

// diagError returns the error in the last message of a dump, or nil if the dump succeeded.
func diagError(data []byte) error {
	if len(data) < 4 {
		return fmt.Errorf("the kernel's answer %x is too short", data)
	}
	switch errno := unix.Errno(-int32(binary.NativeEndian.Uint32(data))); errno {
	case 0:
		return nil
	case unix.ENOENT, unix.EINVAL, unix.EOPNOTSUPP:
		return fmt.Errorf("this kernel does not support the query: %w", errno)
	default:
		return errno
	}
}

// eachAttribute calls the function each for every netlink attribute of a message. The attributes
// begin at the offset first.
func eachAttribute(message []byte, first int, each func(kind uint16, value []byte)) {
	for first+unix.SizeofRtAttr <= len(message) {
		length := int(binary.NativeEndian.Uint16(message[first:]))
		if length < unix.SizeofRtAttr || first+length > len(message) {
			return
		}
		each(binary.NativeEndian.Uint16(message[first+2:]), message[first+unix.SizeofRtAttr:first+length])
		first += (length + 3) &^ 3
	}
}
