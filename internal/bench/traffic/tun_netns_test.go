package traffic

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/packet"
)

func TestSendWritesPacketsWithoutEthernetHeaderToATun(t *testing.T) {
	netnstest.NeedRoot(t)
	name := fmt.Sprintf("pal-traffic-%d-tun", os.Getpid())
	if err := netns.New(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	var tun int
	if err := netns.Do(name, func() (err error) { tun, err = openTun("tun0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tun)
	s := stream64()
	s.Device, s.FromMAC, s.ToMAC = "tun0", ec2.MAC{}, ec2.MAC{}
	s.Rate, s.For = 1000, 50*time.Millisecond
	if err := netns.Do(name, func() error { _, err := send(s); return err }); err != nil {
		t.Fatal(err)
	}
	b, n := make([]byte, 2048), 0
	for b[0]>>4 != 4 { // skip the IPv6 packets that the kernel sends by itself
		var err error
		if ready, _ := unix.Poll([]unix.PollFd{{Fd: int32(tun), Events: unix.POLLIN}}, 0); ready == 0 {
			t.Fatal("the tun device got no IPv4 packet")
		}
		if n, err = unix.Read(tun, b); err != nil {
			t.Fatal(err)
		}
	}
	header := make([]byte, ethernetLen)
	header[12], header[13] = 0x08, 0x00 // IPv4 (RFC 894)
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(append(header, b[:n]...), &p); !ok || n != 46 || p.Flow.Dst != serverAddress {
		t.Errorf("got a packet of %d bytes (%v), want a valid one of 46 bytes to the server: % x", n, v, b[:n])
	}
}

// openTun makes a tun device in the caller's namespace and returns its descriptor.
func openTun(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: clientAddress.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	return fd, errors.Join(netlink.AddrAdd(link, address), netlink.LinkSetUp(link))
}
