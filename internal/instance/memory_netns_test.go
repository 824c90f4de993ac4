package instance

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// TestQueuesOfTheNodeAreItsOwn: an instance that fills the queues of UDP and TCP sockets
// gets no more of what the machine's sockets share than its part, and the node's sockets
// receive as before.
func TestQueuesOfTheNodeAreItsOwn(t *testing.T) {
	for _, kind := range []string{"udp-queue", "tcp-pair"} {
		t.Run(kind, func(t *testing.T) {
			s := newSpec(t, kind, DefaultImage)
			boot(t, s)
			f := startFiller(t, s)
			f.wants("udp", 0, 0, "-")
			before := queued(t)
			n := map[string]int{"udp-queue": 3000, "tcp-pair": 100}[kind] // would be 650 and 300 MiB
			f.wants(kind, n, n, "-")
			if got := queued(t) - before; got > 2*maxQueueBytes {
				t.Errorf("the machine's sockets hold %d MiB more, want %d at most", got>>20, 2*maxQueueBytes>>20)
			}
			if err := netns.Do(s.Namespace+"-peer", passDatagrams); err != nil {
				t.Errorf("the node's UDP: %v", err)
			}
		})
	}
}

// queued returns what the queues of all TCP and UDP sockets of the machine hold, in bytes.
func queued(t *testing.T) (sum int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, after, ok := strings.Cut(line, " mem "); ok {
			var pages int64
			fmt.Sscan(after, &pages)
			sum += pages * int64(os.Getpagesize())
		}
	}
	return sum
}

// passDatagrams sends datagrams to a socket of the calling thread's namespace, many before
// it reads one.
func passDatagrams() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return err
	}
	fd, to, err := udpSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for range 50 {
		if err := unix.Sendto(fd, payload[:1000], 0, to); err != nil {
			return err
		}
	}
	buffer := make([]byte, 2000)
	for i := range 50 {
		if n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT); err != nil || n != 1000 {
			return fmt.Errorf("datagram %d of 50: %d bytes, %w", i, n, err)
		}
	}
	return nil
}

// TestNamespacesHoldLittle: what a network namespace keeps by itself.
func TestNamespacesHoldLittle(t *testing.T) {
	s := newSpec(t, "small-table", DefaultImage)
	boot(t, s)
	f := startFiller(t, s)
	f.wants("fragment", 20000, 20000, "-") // would be 40 MiB
	f.wants("close", 1, 1, "-")
	f.wants("listen", 1, 1, "-")
	f.wants("closed", 6000, 6000, "-")
	var frag, waiting int64
	out, _ := inside(t, s, "cat", "/proc/net/sockstat")
	for line := range strings.Lines(out) {
		var inuse, orphan int64
		fmt.Sscanf(line, "FRAG: inuse %d memory %d", &inuse, &frag)
		fmt.Sscanf(line, "TCP: inuse %d orphan %d tw %d", &inuse, &orphan, &waiting)
	}
	if frag == 0 || frag > 5<<20 {
		t.Errorf("fragments hold %d bytes, want 4 MiB at most", frag)
	}
	if waiting == 0 || waiting > 4096 {
		t.Errorf("%d connections wait out their end, want 4,096 at most", waiting)
	}
}

// TestNeighboursOfTheNodeHaveRoom: the machine has one table of neighbours. An instance asks
// for every address of a large subnet, and the node's namespace still finds its own.
func TestNeighboursOfTheNodeHaveRoom(t *testing.T) {
	s := newSpec(t, "neighbours", DefaultImage)
	s.NICs[0].Addresses[0] = netip.MustParsePrefix("10.200.7.9/16")
	boot(t, s)
	before := tableFull(t)
	f := startFiller(t, s)
	f.wants("neighbour", 40, 40, "-") // 8,000 addresses
	if out, err := fromPeer(s, "ip", "neigh", "flush", "dev", "eth0"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := fromPeer(s, "ping", "-c", "1", "-W", "5", "10.200.7.9"); err != nil {
		t.Errorf("ping: %v\n%s", err, out)
	}
	if full := tableFull(t) - before; full > 0 {
		t.Errorf("the table of neighbours was full %d times", full)
	}
}

// tableFull returns how often the table of neighbours had no room.
func tableFull(t *testing.T) (sum int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/stat/arp_cache")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		var n int64
		if _, err := fmt.Sscanf(f[len(f)-1], "%x", &n); err == nil {
			sum += n
		}
	}
	return sum
}
