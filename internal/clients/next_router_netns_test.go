package clients

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// The router behind the uplink, as the lab makes it: its address is of the public pool.
var routerAddress = netip.MustParseAddr("198.18.0.1")

// checkNextRouter checks that what the router behind the uplink says reaches the ends inside: that a packet's time
// is up, as traceroute needs, and that a packet is too large for the router's next link. Without the latter, large
// transfers would hang.
func checkNextRouter(t *testing.T, ends []*end) {
	t.Helper()
	laptop := ends[0]
	router := strings.TrimSuffix(laptop.namespace, "laptop") + "internet"
	ip(t, "-n %s link set laptop mtu 1280", router)
	defer ip(t, "-n %s link set laptop mtu 1500", router)
	for _, from := range ends[1:] {
		if hop, err := firstHop(t, from, laptop); err != nil || hop != routerAddress {
			t.Errorf("the first hop from %s is %v, error %v, want the router %v", from.name, hop, err, routerAddress)
		}
		checkStream(t, from, laptop)
		f := newFlow(t, from, laptop, useDF)
		for size, want := range map[int]string{1280 - 28: arrived, 1281 - 28: answered} {
			if got := f.send(size); got != want {
				t.Errorf("UDP from %s behind a link of 1280 of %d bytes, with DF: %s, want %s", from.name, size+28, got, want)
			}
		}
		f.close()
	}
}

// firstHop sends a datagram with a TTL of 1, as traceroute does, and returns the address that an ICMP error about it
// comes from.
func firstHop(t *testing.T, from, to *end) (netip.Addr, error) {
	t.Helper()
	var fd int
	check(t, netns.Do(from.namespace, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	defer unix.Close(fd)
	check(t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 1))
	check(t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
	check(t, unix.Sendto(fd, []byte("hop"), 0, &unix.SockaddrInet4{Port: 33434, Addr: to.addressFor(from).As4()}))
	ready := []unix.PollFd{{Fd: int32(fd)}}
	for end := time.Now().Add(3 * time.Second); ready[0].Revents&unix.POLLERR == 0 && time.Now().Before(end); {
		if _, err := unix.Poll(ready, 500); err != nil && err != unix.EINTR {
			return netip.Addr{}, err
		}
	}
	control := make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 512), control, unix.MSG_ERRQUEUE)
	if err != nil {
		return netip.Addr{}, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return netip.Addr{}, err
	}
	for _, m := range messages {
		const extended = 16 // struct sock_extended_err; a sockaddr_in of the sender follows
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR && len(m.Data) >= extended+8 &&
			m.Data[5] == 11 && binary.NativeEndian.Uint16(m.Data[extended:]) == unix.AF_INET {
			return netip.AddrFrom4([4]byte(m.Data[extended+4 : extended+8])), nil
		}
	}
	return netip.Addr{}, unix.ENOMSG
}
