// Package tap opens TAP devices for the switch: the queues that water opens, with the offloads that
// water cannot request.
//
// A queue inherits virtio header and offloads from a device that already has them and allows
// several queues. So a raw descriptor, the leader, creates the device with IFF_VNET_HDR and sets
// its offloads. Then water attaches a queue by the same name, and the leader's queue is detached.
// In the opposite order the kernel reports no error but adds no header. So the flags are read back
// with TUNGETIFF, and a device without the header is used with plain frames.
//
// Devices are persistent and are opened inside the network namespace that they belong to. An
// instance keeps its device and address while the daemon is down, and the next daemon opens the
// device with the same call.
//
// It is the only importer of water.
package tap

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/packet"
)

// Config names a device.
type Config struct {
	// Name is the device's name, up to 15 bytes. It is required. A device with this name that is no
	// TAP makes Open fail.
	Name string
	// Namespace is the network namespace of the device, a name below /run/netns. Default: the
	// daemon's own. In a wrong namespace a new device is created there, and the instance has none.
	Namespace string
	// Plain opens the device without offloads. Default: with all offloads that the kernel has.
	// Frames without offloads cost several times the processor time of large ones.
	Plain bool
}

// Device is one queue of a TAP device. It implements vswitch.Device. Only one goroutine reads; any
// number may write. Its fields do not change between Open and Close.
type Device struct {
	name      string
	namespace string
	queue     int // a duplicate of water's descriptor
	leader    int // keeps the device's flags; -1 for a plain device
	offloads  packet.Offloads
}

// Open attaches to the device, and creates it if it does not exist.
func Open(c Config) (*Device, error) {
	var d *Device
	err := netns.Do(c.Namespace, func() (err error) {
		d, err = open(c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open TAP %s in namespace %q: %w", c.Name, c.Namespace, err)
	}
	return d, nil
}

func open(c Config) (*Device, error) {
	d := &Device{name: c.Name, namespace: c.Namespace, leader: -1, queue: -1}
	if !c.Plain {
		var err error
		if d.leader, d.offloads, err = openLeader(c.Name); err != nil {
			return nil, err
		}
	}
	if err := d.attach(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if d.leader < 0 {
		return d, nil
	}
	flags, err := deviceFlags(d.queue)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if flags&unix.IFF_VNET_HDR == 0 {
		d.offloads = packet.NoOffloads
	}
	// Once detached, the leader receives no frames. As long as it is open, no process that attaches
	// to the device can change its flags.
	if err := queueFlags(d.leader, unix.IFF_DETACH_QUEUE); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// openLeader creates the device with a virtio header and all offloads that the kernel has.
func openLeader(name string) (int, packet.Offloads, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return -1, 0, errors.Join(err, unix.Close(fd))
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return -1, 0, errors.Join(fmt.Errorf("TUNSETIFF: %w", err), unix.Close(fd))
	}
	have, err := setOffloads(fd)
	if err != nil {
		return -1, 0, errors.Join(err, unix.Close(fd))
	}
	return fd, have, nil
}

// setOffloads requests all offloads that the kernel has, and returns them. Segmentation of UDP is
// one since Linux 6.2.
func setOffloads(fd int) (packet.Offloads, error) {
	const streams = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, streams|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil {
		return packet.DatagramOffloads, nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, streams); err != nil {
		return packet.NoOffloads, fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return packet.StreamOffloads, nil
}

// attach opens a queue through water and keeps a duplicate of its descriptor. It closes water's
// descriptor, because the Go runtime polls that one and would wake up for every frame.
func (d *Device) attach() error {
	iface, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: d.name, Persist: true, MultiQueue: true},
	})
	if err != nil {
		return fmt.Errorf("attach a queue: %w", err)
	}
	defer iface.Close()
	conn, err := iface.ReadWriteCloser.(*os.File).SyscallConn()
	if err != nil {
		return fmt.Errorf("attach a queue: %w", err)
	}
	dupErr := errors.New("no descriptor")
	if err := conn.Control(func(fd uintptr) {
		d.queue, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return fmt.Errorf("attach a queue: %w", err)
	}
	if dupErr != nil {
		return fmt.Errorf("attach a queue: %w", dupErr)
	}
	return unix.SetNonblock(d.queue, true)
}

func deviceFlags(fd int) (uint16, error) {
	var request unix.Ifreq
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, &request); err != nil {
		return 0, fmt.Errorf("TUNGETIFF: %w", err)
	}
	return request.Uint16(), nil
}

func queueFlags(fd int, flags uint16) error {
	var request unix.Ifreq
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETQUEUE, &request); err != nil {
		return fmt.Errorf("TUNSETQUEUE: %w", err)
	}
	return nil
}

// Name returns the device's name in its namespace.
func (d *Device) Name() string { return d.name }

// FD returns the descriptor that epoll waits on.
func (d *Device) FD() int { return d.queue }

// Offloads returns which offloads a frame may need when it is written.
func (d *Device) Offloads() packet.Offloads { return d.offloads }

// Read reads one frame behind its virtio header and returns the length of both. The error is EAGAIN
// if there is no frame. The header of a plain device is all zero. The call bypasses the scheduler
// of goroutines, because the descriptor never blocks.
func (d *Device) Read(b []byte) (int, error) {
	if d.offloads == packet.NoOffloads {
		clear(b[:packet.OffloadLen])
		n, err := rawIO(unix.SYS_READ, d.queue, b[packet.OffloadLen:])
		return n + packet.OffloadLen, err
	}
	return rawIO(unix.SYS_READ, d.queue, b)
}

// Write writes one frame behind its virtio header.
func (d *Device) Write(b []byte) error {
	if d.offloads == packet.NoOffloads {
		b = b[packet.OffloadLen:]
	}
	_, err := rawIO(unix.SYS_WRITE, d.queue, b)
	return err
}

func rawIO(call uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// QueueDrops returns how many frames the kernel dropped because the switch did not read them in
// time. It enters the device's namespace, so the data path must not call it.
func (d *Device) QueueDrops() (uint64, error) {
	var dropped uint64
	err := netns.Do(d.namespace, func() error {
		link, err := netlink.LinkByName(d.name)
		if err != nil {
			return err
		}
		if statistics := link.Attrs().Statistics; statistics != nil {
			dropped = statistics.TxDropped // the device sends what the switch receives
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the drop counter of TAP %s in namespace %q: %w", d.name, d.namespace, err)
	}
	return dropped, nil
}

// Close detaches from the device. The device stays, without carrier, until it or its namespace is
// deleted.
func (d *Device) Close() error {
	var errs []error
	if d.queue >= 0 {
		errs = append(errs, unix.Close(d.queue))
		d.queue = -1
	}
	if d.leader >= 0 {
		errs = append(errs, unix.Close(d.leader))
		d.leader = -1
	}
	return errors.Join(errs...)
}
