package tap_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/packet"
	"palisade/switch/tap"
)

// namespace creates a namespace named after the test, which is deleted when the test ends.
func namespace(t *testing.T) string {
	t.Helper()
	netnstest.NeedRoot(t)
	name := fmt.Sprintf("pal-%d-%.20s", os.Getpid(), t.Name())
	if err := netns.New(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// TestDeviceHasOffloadsAndOutlivesItsProcess opens a device, closes every descriptor as a crash
// does, and opens it again. Each time it must have the virtio header.
func TestDeviceHasOffloadsAndOutlivesItsProcess(t *testing.T) {
	ns := namespace(t)
	for round := range 3 {
		d, err := tap.Open(tap.Config{Name: "eth0", Namespace: ns})
		if err != nil {
			t.Fatal(err)
		}
		if d.Offloads() == packet.NoOffloads {
			t.Errorf("round %d: the opened device has no virtio header", round)
		}
		if _, err := d.Read(make([]byte, 2000)); err != unix.EAGAIN {
			t.Errorf("Read of an idle device: %v, want EAGAIN", err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := netns.Do(ns, func() error { _, err := os.Stat("/proc/thread-self/net/dev"); return err }); err != nil {
		t.Error(err)
	}
}

// TestQueueDropsAreCounted: nobody reads the device, so its queue overflows.
func TestQueueDropsAreCounted(t *testing.T) {
	ns := namespace(t)
	d, err := tap.Open(tap.Config{Name: "eth0", Namespace: ns})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = netns.Do(ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		frame := make([]byte, 60)
		to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}
		for range link.Attrs().TxQLen + 200 {
			if err := unix.Sendto(fd, frame, 0, to); err != nil && err != unix.ENOBUFS {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if dropped, err := d.QueueDrops(); err != nil || dropped < 100 {
		t.Errorf("QueueDrops = %d, %v; want at least 100", dropped, err)
	}
}

func TestPlainDeviceHasNoOffloads(t *testing.T) {
	d, err := tap.Open(tap.Config{Name: "eth0", Namespace: namespace(t), Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Offloads() != packet.NoOffloads {
		t.Errorf("a plain device has offloads %v, want none", d.Offloads())
	}
}

func TestMissingNamespaceIsAnError(t *testing.T) {
	namespace(t) // skips the test without root
	if d, err := tap.Open(tap.Config{Name: "eth0", Namespace: "pal-no-such-namespace"}); err == nil {
		d.Close()
		t.Error("Open in a namespace that does not exist returned no error")
	}
}
