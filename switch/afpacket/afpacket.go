// Package afpacket makes a port of a device that somebody else made and holds: the TAP of a
// virtual machine, or this end of a veth pair whose other end a container has.
//
// A TAP's owner reads and writes it by a file descriptor of its own. The switch takes the
// other side, which is the host's: a packet socket bound to the device hears what the owner
// sends, and what it writes the owner reads. Frames stand behind a virtio header
// (PACKET_VNET_HDR), so that offloads go through; where the device has fewer than the
// frame needs, the kernel cuts and finishes it. The socket does not hear itself
// (PACKET_IGNORE_OUTGOING).
//
// What the owner sends would reach the host's own network stack besides, and what the host
// sends would reach the owner, past every rule. Take closes both ways (guard.go), and keeps
// them closed while no daemon runs; Release opens them again.
package afpacket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Config names a device.
type Config struct {
	Name      string
	Namespace string // below /run/netns; "" is the daemon's own
}

// Device is a packet socket on a device. One goroutine reads; any number write.
type Device struct {
	name string
	fd   int

	// What recvmsg fills; only the reader uses it.
	header  unix.Msghdr
	vector  unix.Iovec
	control [unix.SizeofCmsghdr + 64]byte

	mu      sync.Mutex
	dropped uint64 // that the kernel has counted and been asked about
}

// bufferSize is what may wait in the socket, in bytes: some sixty of the largest frames.
const bufferSize = 8 << 20

// Open hears and speaks on a device that was taken (see Take).
func Open(c Config) (*Device, error) {
	var d *Device
	err := netns.Do(c.Namespace, func() (err error) {
		d, err = open(c.Name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open device %s in namespace %q: %w", c.Name, c.Namespace, err)
	}
	return d, nil
}

func open(name string) (*Device, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	// Without a protocol it hears nothing, of no device, before it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a packet socket: %w", err)
	}
	d := newDevice(name, fd)
	for _, o := range []struct {
		what               string
		level, name, value int
	}{
		{"PACKET_VNET_HDR", unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{"PACKET_IGNORE_OUTGOING", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{"PACKET_AUXDATA", unix.SOL_PACKET, unix.PACKET_AUXDATA, 1},
		{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, mark},
		{"SO_RCVBUFFORCE", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize},
		{"SO_SNDBUFFORCE", unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bufferSize},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return nil, errors.Join(fmt.Errorf("set %s: %w", o.what, err), d.Close())
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

// Name is the device's name in its namespace.
func (d *Device) Name() string { return d.name }

// FD is the descriptor to wait on.
func (d *Device) FD() int { return d.fd }

// Offloads: the kernel does what the device does not, as far as it knows it: its virtio
// headers have UDP's segmentation since Linux 6.2.
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

// Read reads one frame behind its virtio header and returns the length of both. Its error is EAGAIN if there
// is no frame, also where the device is down or gone, and verdict.Lost if the kernel lost a frame.
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

// tagged reports whether the kernel has taken a VLAN tag off the frame just read.
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

// putTag lets a tagged frame be seen as one: nobody carries it, so its own EtherType is not
// missed.
func putTag(frame []byte) {
	if len(frame) >= 14 {
		binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_8021Q)
	}
}

// Write writes one frame behind its virtio header. What finds no room is dropped, as on a
// wire.
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

// QueueDrops is how many frames the kernel has dropped because the switch did not read them
// in time.
func (d *Device) QueueDrops() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := unix.GetsockoptTpacketStats(d.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS) // and begins anew
	if err != nil {
		return d.dropped, fmt.Errorf("count the drops of device %s: %w", d.name, err)
	}
	d.dropped += uint64(s.Drops)
	return d.dropped, nil
}

// Close lets go of the device; it stays, and it stays closed to the host.
func (d *Device) Close() error {
	if d.fd < 0 {
		return nil
	}
	err := unix.Close(d.fd)
	d.fd = -1
	return err
}
