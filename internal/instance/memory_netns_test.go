package instance

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/testwait"
)

// TestKernelMemoryIsBoundedOrCharged fills each kind of kernel memory that docs/SECURITY.md lists,
// except the memory of packet, raw and netlink sockets. Each step must stop at its limit, or its
// memory must be charged to the instance's cgroup, which has a limit.
func TestKernelMemoryIsBoundedOrCharged(t *testing.T) {
	s := newSpec(t, "memory", DefaultImage)
	boot(t, s)
	type step struct {
		what    string
		n, most int
		errno   string
	}
	const mib = 1 << 20
	for _, tt := range []struct {
		kind    string
		steps   []step
		charged int64 // at least
	}{
		{"pipes", []step{{"pipe", 500, 500, "-"}}, 1 * mib},
		{"stream sockets of unix", []step{{"unix-stream", 200, 200, "-"}}, 30 * mib},
		{"datagram sockets of unix", []step{{"unix-dgram", 200, 200, "-"}}, 30 * mib},
		{"descriptors in flight", []step{{"in-flight", 100, 66, "ETOOMANYREFS"}}, 2 * mib},
		{"events of inotify", []step{{"inotify", 8, 8, "-"}}, 5 * mib},
		{"entries of epoll", []step{{"epoll", 1000, 1000, "-"}}, 10 * mib},
		{"event descriptors", []step{{"eventfd", 10000, 10000, "-"}}, 2 * mib},
		{"timer descriptors", []step{{"timerfd", 10000, 10000, "-"}}, 2 * mib},
		{"signal descriptors", []step{{"signalfd", 10000, 10000, "-"}}, 2 * mib},
		{"timers", []step{{"timer", 10000, 4096, "EAGAIN"}}, 0},
		{"queued signals", []step{{"signal", 10000, 4096, "EAGAIN"}}, 0},
		{"file locks", []step{{"lock", 6000, maxLocks + 2*locksUncounted, "ENOLCK"}, {"lock-of-the-description", 1, 0, "EINVAL"}, {"close", 1, 1, "-"}, {"lock", 100, 100, "-"}}, 0},
		{"POSIX message queues", []step{{"mq", 100, 3, "EMFILE"}}, 0},
		{"System V message queues", []step{{"sysv-msg", 1000, 1000, "-"}}, 10 * mib},
		{"System V semaphores", []step{{"sysv-sem", 20, 20, "-"}}, 20 * mib},
		{"System V shared memory", []step{{"sysv-shm", 4, 4, "-"}}, 60 * mib},
		{"memory files", []step{{"memfd", 10, 10, "-"}}, 30 * mib},
		{"files", []step{{"file", 10000, 10000, "-"}}, 5 * mib},
		{"extended attributes", []step{{"attribute", 200, 200, "-"}}, 5 * mib},
		{"page tables", []step{{"page-table", 30, 30, "-"}}, 50 * mib},
		{"locked pages", []step{{"locked", 1, 0, "ENOMEM"}}, 0},
		{"pseudoterminals", []step{{"pty", 1000, 128, "ENOSPC"}}, 0},
		{"system call filters", []step{{"seccomp-filter", 100, 8, "ENOMEM"}}, 0},
		{"socket filters", []step{{"filter", 1, 0, "EPERM"}}, 0},
		{"multicast groups", []step{{"membership", 1, 0, "EPERM"}, {"membership6", 1, 0, "EPERM"}}, 0},
		{"TLS in the kernel", []step{{"tcp", 1, 1, "-"}, {"tls", 1, 0, "EPERM"}}, 0},
		{"asynchronous calls", []step{{"aio", 1, 0, "EPERM"}, {"io_uring", 1, 0, "EPERM"}}, 0},
		{"keys", []step{{"key", 1, 0, "EPERM"}}, 0},
		{"BPF, perf, userfaultfd", []step{{"bpf-map", 1, 0, "EPERM"}, {"perf", 1, 0, "EPERM"}, {"userfaultfd", 1, 0, "EPERM"}}, 0},
		{"listeners", []step{{"listen", 1000, maxListeners - 1, "ENOBUFS"}}, 0}, // sshd has one
	} {
		t.Run(strings.ReplaceAll(tt.kind, " ", "-"), func(t *testing.T) {
			f := startFiller(t, s)
			f.wants("udp", 0, 0, "-") // wait until the filler runs
			before := settled(t, s)
			for _, step := range tt.steps {
				made, errno := f.do(step.what, step.n)
				if made > step.most || errno != step.errno || errno == "-" && made < step.n {
					t.Errorf("%s, up to %d times: succeeded %d times and stopped with %s, want at most %d times and %s", step.what, step.n, made, errno, step.most, step.errno)
				}
			}
			if got := charged(t, s) - before; tt.charged > 0 && got < tt.charged {
				t.Errorf("%d bytes were charged to the cgroup, want at least %d", got, tt.charged)
			}
		})
	}
}

// settled waits until the memory of earlier steps has been freed, and returns the bytes that are then
// charged to the cgroup.
func settled(t *testing.T, s Spec) (bytes int64) {
	t.Helper()
	same := 0
	testwait.For(t, "the cgroup's memory settles", func() bool {
		if now := charged(t, s); now == bytes {
			same++
		} else {
			bytes, same = now, 0
		}
		return same > 20 // equal readings, a millisecond apart
	})
	return bytes
}

// charged returns the bytes that are charged to the instance's cgroup.
func charged(t *testing.T, s Spec) int64 {
	t.Helper()
	for _, h := range hierarchies() {
		for _, file := range []string{"memory.current", "memory.usage_in_bytes"} {
			if n, err := readNumber(filepath.Join(h.dir(s), file)); err == nil {
				return n
			}
		}
	}
	t.Fatal("found no cgroup that counts the instance's memory")
	return 0
}

func readNumber(path string) (n int64, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		_, err = fmt.Sscan(string(text), &n)
	}
	return n, err
}

// TestFullQueuesOfInstanceDoNotAffectNode: an instance that fills the queues of its UDP or TCP
// sockets can use only up to its limit of the machine's socket memory, and the node's sockets still
// receive.
func TestFullQueuesOfInstanceDoNotAffectNode(t *testing.T) {
	for _, kind := range []string{"udp-queue", "tcp-pair"} {
		t.Run(kind, func(t *testing.T) {
			s := newSpec(t, kind, DefaultImage)
			boot(t, s)
			f := startFiller(t, s)
			f.wants("udp", 0, 0, "-")
			before := queued(t)
			n := map[string]int{"udp-queue": 3000, "tcp-pair": 100}[kind] // without limits the queues would take 650 and 300 MiB
			f.wants(kind, n, n, "-")
			if got := queued(t) - before; got > 2*maxQueueBytes {
				t.Errorf("the queues of the machine's sockets grew by %d MiB, want at most %d", got>>20, 2*maxQueueBytes>>20)
			}
			if err := netns.Do(s.Namespace+"-peer", passDatagrams); err != nil {
				t.Errorf("UDP datagrams of the node are lost while the instance's queues are full: %v", err)
			}
		})
	}
}

// queued returns the bytes in the queues of all TCP and UDP sockets of the machine.
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

// passDatagrams sends 50 datagrams to a socket in the current network namespace and then reads them.
// It returns an error if one is lost.
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
			return fmt.Errorf("receive datagram %d of 50: got %d bytes, want 1000: %w", i, n, err)
		}
	}
	return nil
}

// TestGuardKillsInstanceWhoseSocketsHoldTooMuch: the kernel limits queues of errors and timestamps
// only for each socket and charges them to no cgroup, so the guard must limit their sum.
func TestGuardKillsInstanceWhoseSocketsHoldTooMuch(t *testing.T) {
	for _, kind := range []string{"udp-errors", "udp-timestamps", "backlog"} {
		t.Run(kind, func(t *testing.T) {
			s := newSpec(t, kind, DefaultImage)
			inst := boot(t, s)
			f := startFiller(t, s)
			if kind == "backlog" { // waiting connections of as many listeners as are allowed
				for range maxListeners - 1 {
					f.try("listen", 1)
					f.try(kind, 200)
				}
			} else {
				f.try(kind, 4000) // without the guard they would hold 800 MiB
			}
			most := int64(0)
			before := available(t)
			testwait.For(t, "the guard kills the instance", func() bool {
				most = max(most, before-available(t))
				select {
				case <-inst.Done():
					return true
				default:
					return false
				}
			})
			if why := inst.EndedBecause(); !strings.HasPrefix(why, "its sockets held ") {
				t.Errorf("EndedBecause returned %q, want a reason that begins with \"its sockets held \"", why)
			}
			t.Logf("the node's free memory fell by at most %d MiB", most>>20)
		})
	}
}

// TestFragmentsAndTimeWaitAreLimited: the network namespace limits the memory of fragments and the
// number of connections in TIME-WAIT, which are charged to no cgroup.
func TestFragmentsAndTimeWaitAreLimited(t *testing.T) {
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
		t.Errorf("fragments hold %d bytes, want more than 0 and about 4 MiB, at most 5", frag)
	}
	if waiting == 0 || waiting > 4096 {
		t.Errorf("%d connections are in TIME-WAIT, want 1 to 4,096", waiting)
	}
}

// TestInstanceCannotFillNeighbourTable: all namespaces of the machine share one neighbour table. An
// instance sends ARP requests for 8,000 addresses of a large subnet, and the node still finds its own
// neighbours.
func TestInstanceCannotFillNeighbourTable(t *testing.T) {
	s := newSpec(t, "neighbours", DefaultImage)
	s.NICs[0].Addresses[0] = netip.MustParsePrefix("10.200.7.9/16")
	boot(t, s)
	before := tableFull(t)
	f := startFiller(t, s)
	f.wants("neighbour", 40, 40, "-") // 8,000 addresses
	if out, err := fromPeer(s, "ip", "neigh", "flush", "dev", "eth0"); err != nil {
		t.Fatalf("ip neigh flush: %v\n%s", err, out)
	}
	if out, err := fromPeer(s, "ping", "-c", "1", "-W", "5", "10.200.7.9"); err != nil {
		t.Errorf("the peer cannot ping the instance: %v\n%s", err, out)
	}
	if full := tableFull(t) - before; full > 0 {
		t.Errorf("the neighbour table was full %d times, want 0", full)
	}
}

// tableFull returns how often the neighbour table was full since the machine started.
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
