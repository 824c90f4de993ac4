// Package afpacket makes a port of a device that another program made and uses: the TAP of a
// virtual machine, or one end of a veth pair whose other end is in a container.
//
// The owner of a TAP reads and writes it through a file descriptor. The switch uses the host's
// side: a packet socket on the device reads what the owner sends, and the owner reads what the
// socket writes. Frames have a virtio header (PACKET_VNET_HDR), so offloads pass through; for a
// device with fewer offloads than a frame needs, the kernel cuts and finishes the frame. The socket
// does not read what it has written (PACKET_IGNORE_OUTGOING).
//
// In the host's network namespace, frames would also pass between the owner and the host's processes,
// in both directions, and no rule would be checked. A filter on the device does not prevent that: a
// packet socket writes past it and reads before it, and needs only CAP_NET_RAW. So Take moves the
// device into a network namespace that has nothing else (guard.go). It stays there while no daemon
// runs. Release moves it back.
package afpacket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Config names a device.
type Config struct {
	// Name is the device's name, up to 15 bytes. It is required.
	Name string
	// Namespace is the network namespace from which the device is taken, a name below /run/netns.
	// Default: the daemon's own. In a wrong namespace the device is not found, or another device of
	// the same name is taken.
	Namespace string
	// Prefix begins the names of the namespaces that have taken devices. Default "". If it changes, devices that
	// were taken are not found, and stay in their namespaces.
	Prefix string
}

// Device is a packet socket on a device. It implements vswitch.Device. Only one goroutine reads;
// any number may write. mu guards dropped; no other lock is taken within it.
type Device struct {
	name string
	fd   int

	// The arguments of recvmsg. Only the reader uses them.
	header  unix.Msghdr
	vector  unix.Iovec
	control [unix.SizeofCmsghdr + 64]byte

	mu      sync.Mutex
	dropped uint64 // sum of the counts that the kernel returned; each read resets its count
}

// bufferSize is how many bytes may wait in the socket: some sixty frames of the largest size.
const bufferSize = 8 << 20

// Open opens a device that owner has taken.
func Open(c Config, owner string) (*Device, error) {
	var d *Device
	err := at(c, owner, func(p *place) error {
		link, held, err := p.find()
		switch {
		case err != nil:
			return err
		case link == nil:
			return fmt.Errorf("%s has not taken it", owner)
		case held:
			return p.inHeld(func() error {
				d, err = open(c.Name)
				return err
			})
		}
		d, err = open(c.Name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open device %s: %w", c.Name, err)
	}
	return d, nil
}

func open(name string) (*Device, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	// A socket without a protocol receives no frames before it is bound to a device.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create a packet socket: %w", err)
	}
	d := newDevice(name, fd)
	for _, o := range []struct {
		label              string
		level, name, value int
	}{
		{"PACKET_VNET_HDR", unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{"PACKET_IGNORE_OUTGOING", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{"PACKET_AUXDATA", unix.SOL_PACKET, unix.PACKET_AUXDATA, 1},
		{"SO_RCVBUFFORCE", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize},
		{"SO_SNDBUFFORCE", unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bufferSize},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return nil, errors.Join(fmt.Errorf("set %s: %w", o.label, err), d.Close())
		}
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind to device %d: %w", link.Index, err), d.Close())
	}
	return d, nil
}

func newDevice(name string, socket int) *Device {
	d := &Device{name: name, fd: socket}
	d.header.Iov, d.header.Iovlen = &d.vector, 1
	d.header.Control = &d.control[0]
	return d
}

// Name returns the device's name in its namespace.
func (d *Device) Name() string { return d.name }

// FD returns the descriptor that epoll waits on.
func (d *Device) FD() int { return d.fd }

// Offloads returns the offloads that a virtio header of a packet socket can describe; segmentation
// of UDP is one since Linux 6.2. If the device lacks one of them, the kernel does its work.
func (d *Device) Offloads() packet.Offloads { return kernelOffloads() }

var kernelOffloads = sync.OnceValue(func() packet.Offloads {
	var name unix.Utsname
	var major, minor int
	if err := unix.Uname(&name); err != nil {
		return packet.StreamOffloads
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	if err != nil || major < 6 || major == 6 && minor < 2 {
		return packet.StreamOffloads
	}
	return packet.DatagramOffloads
})

// Read reads one frame behind its virtio header and returns the length of both. The error is EAGAIN if there
// is no frame, or the device is down or gone, and a verdict.Lost if the kernel lost a frame.
func (d *Device) Read(b []byte) (int, error) {
	for {
		d.vector.Base = unsafe.SliceData(b)
		d.vector.SetLen(len(b))
		d.header.SetControllen(len(d.control))
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(d.fd), uintptr(unsafe.Pointer(&d.header)), 0)
		switch errno {
		case 0:
			if int(n) < packet.OffloadLen {
				return 0, verdict.Lost(verdict.ShortRead)
			}
			if d.tagged() {
				putTag(b[packet.OffloadLen:n])
			}
			return int(n), nil
		case unix.EINTR:
		case unix.EINVAL: // from virtio_net_hdr_from_skb: the kernel has discarded the frame
			return 0, verdict.Lost(verdict.UnknownOffload)
		case unix.ENETDOWN:
			return 0, unix.EAGAIN
		default:
			return 0, errno
		}
	}
}

// tagged reports whether the kernel has removed a VLAN tag from the frame that was just read.
func (d *Device) tagged() bool {
	const auxdata = 20 // struct tpacket_auxdata
	n := int(d.header.Controllen)
	for at := 0; at+unix.SizeofCmsghdr <= n; {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&d.control[at]))
		if int(h.Len) < unix.SizeofCmsghdr || at+int(h.Len) > n {
			return false
		}
		if h.Level == unix.SOL_PACKET && h.Type == unix.PACKET_AUXDATA && int(h.Len) >= unix.SizeofCmsghdr+auxdata {
			return binary.NativeEndian.Uint32(d.control[at+unix.SizeofCmsghdr:])&unix.TP_STATUS_VLAN_VALID != 0
		}
		at += (int(h.Len) + 7) &^ 7
	}
	return false
}

// putTag writes the EtherType of a VLAN tag over that of the frame. The switch drops tagged frames,
// so it does not need the original EtherType.
func putTag(frame []byte) {
	if len(frame) >= 14 {
		binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_8021Q)
	}
}

// Write writes one frame behind its virtio header. If the device's queue is full the kernel drops
// the frame.
func (d *Device) Write(b []byte) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(d.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// QueueDrops returns how many frames the kernel dropped because the switch did not read them in
// time.
func (d *Device) QueueDrops() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := unix.GetsockoptTpacketStats(d.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS) // the kernel resets its counters
	if err != nil {
		return d.dropped, fmt.Errorf("read the drop counter of device %s: %w", d.name, err)
	}
	d.dropped += uint64(s.Drops)
	return d.dropped, nil
}

// Close closes the socket. The device stays where Take has put it.
func (d *Device) Close() error {
	if d.fd < 0 {
		return nil
	}
	err := unix.Close(d.fd)
	d.fd = -1
	return err
}
