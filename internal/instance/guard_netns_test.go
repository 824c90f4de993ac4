package instance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
	"palisade/internal/process"
)

// TestPacketSocketsAreLimitedPerInstance opens thousands of packet sockets with filters, in processes
// that were started by a login and by `lab exec`.
func TestPacketSocketsAreLimitedPerInstance(t *testing.T) {
	s := newSpec(t, "sockets", DefaultImage)
	key, authorized := loginKey(t)
	s.AuthorizedKeys = []string{authorized}
	boot(t, s)
	login, second := startFillerBySSH(t, s, key), startFiller(t, s)
	login.wants("packet", 40, 40, "-")
	second.wants("packet", 4000, 24, "ENOBUFS")
	login.wants("packet", 1, 0, "ENOBUFS")
	login.wants("packet-of-inet", 1, 0, "EPROTONOSUPPORT")

	// A closed socket makes room; one in flight between two processes does not.
	login.wants("close", 10, 10, "-")
	second.wants("packet", 4000, 10, "ENOBUFS")
	second.wants("close", 10, 10, "-")
	second.wants("send-away", 4000, 10, "ENOBUFS")

	// Eight processes at once.
	login.wants("close", 30, 30, "-")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var sum int
	for range 8 {
		f := startFiller(t, s)
		wg.Go(func() {
			made, _ := f.do("packet", 500)
			mu.Lock()
			sum += made
			mu.Unlock()
		})
	}
	wg.Wait()
	if sum != 30 {
		t.Errorf("eight processes opened %d packet sockets together, want 30", sum)
	}
}

func TestRingsAreLimitedPerInstance(t *testing.T) {
	s := newSpec(t, "rings", DefaultImage)
	boot(t, s)
	a, b := startFiller(t, s), startFiller(t, s)
	a.wants("packet", 1, 1, "-")
	before := available(t)
	a.wants("ring-of-1GiB", 1, 0, "ENOMEM")
	if fell := before - available(t); fell > 256<<20 {
		t.Errorf("the node's free memory fell by %d MiB", fell>>20)
	}
	a.wants("ring-of-nonsense", 1, 0, "EINVAL")

	// Four rings of 2 MiB, in both directions, in two processes.
	a.wants("ring-of-2MiB", 1, 1, "-")
	a.wants("tx-ring-of-2MiB", 1, 1, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("ring-of-2MiB", 1, 1, "-")
	b.wants("tx-ring-of-2MiB", 1, 1, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("ring-of-2MiB", 1, 0, "ENOMEM")
	a.wants("close", 1, 1, "-")
	b.wants("ring-of-2MiB", 1, 1, "-")
	b.wants("ring-of-2MiB", 1, 0, "EBUSY") // from the kernel: the socket has a ring already
	b.wants("ring-away", 1, 1, "-")
	b.wants("ring-of-2MiB", 1, 1, "-")

	// The kernel rounds blocks up to a power of two of pages.
	b.wants("close", 2, 2, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("ring-of-2MiB", 1, 1, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("ring-of-5-pages", 1, 0, "ENOMEM")
	b.wants("close", 2, 2, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("ring-of-5-pages", 1, 1, "-")
}

// TestFiltersAreLimitedPerInstance: the filters of all packet sockets have a common limit, those of raw
// and netlink sockets one for each.
func TestFiltersAreLimitedPerInstance(t *testing.T) {
	s := newSpec(t, "filters", DefaultImage)
	boot(t, s)
	a, b := startFiller(t, s), startFiller(t, s)
	for _, f := range []*filler{a, b} {
		f.wants("packet", 1, 1, "-")
	}
	a.wants("long-filter", 1, 1, "-")
	b.wants("long-filter", 1, 0, "ENOMEM")
	b.wants("filter-of-64", 1, 1, "-")
	a.wants("close", 1, 1, "-")
	b.wants("long-filter", 1, 1, "-") // the first filter is gone
	b.wants("close", 1, 1, "-")

	// Instructions that read the packet count more.
	a.wants("packet", 1, 1, "-")
	a.wants("filter-of-loads", 1, 0, "ENOMEM")
	a.wants("most-loads", 1, 1, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("most-loads", 1, 0, "ENOMEM")

	for _, kind := range []string{"raw", "raw6", "netlink"} {
		b.wants(kind, 1, 1, "-")
		b.wants("filter-of-64", 1, 1, "-")
		b.wants("filter-of-65", 1, 0, "ENOMEM")
	}
}

// TestPacketSocketsHoldLittleBesidesRings: queues, fanout groups and memberships are limited.
func TestPacketSocketsHoldLittleBesidesRings(t *testing.T) {
	s := newSpec(t, "queues", DefaultImage)
	boot(t, s)
	f := startFiller(t, s)
	for _, kind := range []string{"packet", "raw", "netlink"} {
		f.wants(kind, 1, 1, "-")
		f.wants("buffer-of-64MiB", 1, 1, "-")
	}
	f.wants("packet", 1, 1, "-")
	f.wants("bind", 1, 1, "-")
	f.wants("promiscuous", 1000, 1000, "-")
	f.wants("multicast", 1, 0, "EPERM")
	f.wants("large-fanout", 1, 1, "-")
	f.wants("raw", 1000, maxRawSockets-1, "ENOBUFS")
	f.wants("raw6", 1, 0, "ENOBUFS")
	f.wants("close", 10, 10, "-")
	f.wants("raw6", 1000, 10, "ENOBUFS")
	f.wants("netlink", 1000, maxNetlinkSockets-1, "ENOBUFS")
}

// guardOf returns the guard of a running instance.
func guardOf(t *testing.T, s Spec) process.ID {
	t.Helper()
	id, err := findGuard(s.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sniffOne runs tcpdump until it has captured one packet, while ping sends.
func sniffOne(t *testing.T, s Spec, expression string) (out string, code int) {
	t.Helper()
	return inside(t, s, "sh", "-c", `ping -i 0.05 10.200.7.1 >/dev/null & timeout 30 tcpdump -c 1 -n -i eth0 "$0" 2>&1; code=$?; kill $!; exit $code`, expression)
}

// TestToolsCanOpenPacketSockets: common tools work in an instance, even while 60 of its 64 packet sockets
// are open.
func TestToolsCanOpenPacketSockets(t *testing.T) {
	s := newSpec(t, "tools", DefaultImage)
	boot(t, s)
	check := func() {
		t.Helper()
		out, code := sniffOne(t, s, "icmp")
		if code != 0 || !strings.Contains(out, "ICMP echo") {
			t.Errorf("tcpdump: %d\n%s", code, out)
		}
		out, code = inside(t, s, "nmap", "-n", "-Pn", "-sS", "-p", "1-100", "10.200.7.1")
		if code != 0 || !strings.Contains(out, "100 closed tcp ports (reset)") {
			t.Errorf("nmap -sS: %d\n%s", code, out)
		}
		if out, code = inside(t, s, "ping", "-c", "1", "-W", "5", "10.200.7.1"); code != 0 {
			t.Errorf("ping: %d\n%s", code, out)
		}
		if out, code = inside(t, s, "ip", "-br", "link"); code != 0 || !strings.Contains(out, "eth0") {
			t.Errorf("ip: %d\n%s", code, out)
		}
	}
	check()
	f := startFiller(t, s)
	f.wants("packet", 60, 60, "-")
	check()
}

// TestLongFilterOfTcpdumpWorks: libpcap filters in user space if a filter is too long for the instance.
func TestLongFilterOfTcpdumpWorks(t *testing.T) {
	s := newSpec(t, "long-filter", DefaultImage)
	boot(t, s)
	expression := "icmp"
	for i := range 100 {
		expression += fmt.Sprintf(" or (host 192.0.2.%d and tcp port %d)", i%256, i+1)
	}
	out, code := sniffOne(t, s, expression)
	if code != 0 || !strings.Contains(out, "ICMP echo") || !strings.Contains(out, "kernel memory for filter") {
		t.Errorf("tcpdump: %d, want a warning and a packet\n%s", code, out)
	}
}

func TestGuardEndsWithInstance(t *testing.T) {
	s := newSpec(t, "guard", DefaultImage)
	inst := boot(t, s)
	guard := guardOf(t, s)
	unix.Kill(inst.Pid(), unix.SIGKILL) // without cleanup, as if it had crashed
	eventually(t, "the guard ends with init", func() bool { return !guard.Alive() })

	boot(t, s)
	guard = guardOf(t, s)
	if err := Remove(s); err != nil {
		t.Fatal(err)
	}
	if guard.Alive() {
		t.Error("the guard runs after Remove")
	}
}

// TestPacketSocketFailsWithoutGuard: guarded calls fail when the guard is dead. Commands that enter
// afterwards have another guard.
func TestPacketSocketFailsWithoutGuard(t *testing.T) {
	s := newSpec(t, "unguarded", DefaultImage)
	boot(t, s)
	before := startFiller(t, s)
	before.wants("packet", 1, 1, "-")
	guard := guardOf(t, s)
	if err := process.Kill(t.Context(), guard); err != nil {
		t.Fatal(err)
	}
	before.wants("packet", 1, 0, "ENOSYS")
	before.wants("ring-of-2MiB", 1, 0, "ENOSYS")
	after := startFiller(t, s) // served by another guard, which counts earlier sockets too
	after.wants("packet", 4000, maxPacketSockets-1, "ENOBUFS")
	before.wants("packet", 1, 0, "ENOSYS")
}

// TestGuardUsesLittleMemory: a node has as many guards as instances.
func TestGuardUsesLittleMemory(t *testing.T) {
	s := newSpec(t, "small", DefaultImage)
	inst := boot(t, s)
	guard := guardOf(t, s)
	for what, pid := range map[string]int{"guard": guard.PID, "init": inst.Pid()} {
		memory, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(memory), "Anonymous:")
		var kib int
		if _, err := fmt.Sscan(rest, &kib); err != nil || kib > 8<<10 {
			t.Errorf("%s has %d KiB of anonymous memory (%v), want 8,192 at most", what, kib, err)
		}
	}
}

// TestGuardLimitsItsProcessorTime: the guard's processor time is not charged to the instance.
func TestGuardLimitsItsProcessorTime(t *testing.T) {
	s := newSpec(t, "share", DefaultImage)
	boot(t, s)
	guard := guardOf(t, s)
	var fillers []*filler
	for range 8 {
		f := startFiller(t, s)
		f.wants("udp", 0, 0, "-") // it runs
		fillers = append(fillers, f)
	}
	begin, before := time.Now(), processorTime(t, guard)
	var wg sync.WaitGroup
	for _, f := range fillers {
		wg.Go(func() { f.do("open-sockets-for-1s", 1) })
	}
	wg.Wait()
	if used, took := processorTime(t, guard)-before, time.Since(begin); used > took*3/10 {
		t.Errorf("the guard used %v of processor time in %v, want a fifth", used, took)
	}
}

// processorTime returns the processor time of a process.
func processorTime(t *testing.T, id process.ID) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id.PID))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, err1 := strconv.Atoi(f[11]) // utime, in hundredths of a second
	system, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// TestGuardOutlivesDaemon boots the instance in a daemon that is killed.
func TestGuardOutlivesDaemon(t *testing.T) {
	s := newSpec(t, "guard-daemon", DefaultImage)
	bootByAnother(t, s)
	again, err := Adopt(s)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	f := startFiller(t, s)
	f.wants("packet", 4000, maxPacketSockets, "ENOBUFS")
	f.wants("close", maxPacketSockets, maxPacketSockets, "-")
	f.wants("packet", 4000, maxPacketSockets, "ENOBUFS")
	if err := again.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := netns.Processes(s.Namespace); len(left) != 0 {
		t.Errorf("processes left after Kill: %v", left)
	}
}

// TestSocketCallSurvivesSignalsToGuard: while the guard receives many signals, as from the Go runtime,
// each socket call inside still returns a socket, and never standard input.
func TestSocketCallSurvivesSignalsToGuard(t *testing.T) {
	s := newSpec(t, "signals", DefaultImage)
	boot(t, s)
	guard := guardOf(t, s)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Kill(guard.PID, unix.SIGURG)
			}
		}
	}()
	const script = `use Socket; for (1..300) { socket(my $s, 16, 3, 16) or die "socket: $!"; -S $s or die "no socket, at $_"; close $s }`
	var output bytes.Buffer
	code, err := Exec(t.Context(), s.Namespace, []string{"perl", "-e", script}, Stdio{Out: &output, Err: &output})
	close(stop)
	<-ended
	if code != 0 || err != nil {
		t.Errorf("status %d, %v: %s", code, err, &output)
	}
}
