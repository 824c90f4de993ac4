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
	"palisade/internal/testwait"
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

	// Closing a socket makes room for another one. A socket in flight between two processes still
	// counts.
	login.wants("close", 10, 10, "-")
	second.wants("packet", 4000, 10, "ENOBUFS")
	second.wants("close", 10, 10, "-")
	second.wants("send-away", 4000, 10, "ENOBUFS")

	// Eight processes that open sockets at the same time share the limit too.
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
		t.Errorf("eight processes together opened %d packet sockets, want 30", sum)
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
		t.Errorf("the node's free memory fell by %d MiB while a ring of 1 GiB was refused, want at most 256", fell>>20)
	}
	a.wants("ring-of-nonsense", 1, 0, "EINVAL")

	// Receive and transmit rings of two processes share the limit: four rings of 2 MiB are possible.
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

	// A ring counts with the size that the kernel gives it: blocks are rounded up to a power of two
	// of pages.
	b.wants("close", 2, 2, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("ring-of-2MiB", 1, 1, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("ring-of-5-pages", 1, 0, "ENOMEM")
	b.wants("close", 2, 2, "-")
	b.wants("packet", 1, 1, "-")
	b.wants("ring-of-5-pages", 1, 1, "-")
}

// TestFiltersAreLimitedPerInstance: one limit applies to the filters of all packet sockets together.
// Another limit applies to the filter of each raw or netlink socket.
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
	b.wants("long-filter", 1, 1, "-") // the filter of the closed socket no longer counts
	b.wants("close", 1, 1, "-")

	// An instruction that reads the packet counts more than another instruction.
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

// TestPacketSocketsHoldLittleBesidesRings: the queues, fanout groups and memberships of packet
// sockets are limited, and so is the number of raw and netlink sockets.
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

// guardOf returns the process id of the guard of a running instance.
func guardOf(t *testing.T, s Spec) process.ID {
	t.Helper()
	id, err := findGuard(s.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sniffOne runs tcpdump with this filter expression inside until it has captured one packet, while
// ping sends packets. It returns the output and the exit status of tcpdump.
func sniffOne(t *testing.T, s Spec, expression string) (out string, code int) {
	t.Helper()
	return inside(t, s, "sh", "-c", `ping -i 0.05 10.200.7.1 >/dev/null & timeout 30 tcpdump -c 1 -n -i eth0 "$0" 2>&1; code=$?; kill $!; exit $code`, expression)
}

// TestToolsCanOpenPacketSockets: tcpdump, nmap, ping and ip work inside an instance, even while 60 of
// its 64 packet sockets are open.
func TestToolsCanOpenPacketSockets(t *testing.T) {
	s := newSpec(t, "tools", DefaultImage)
	boot(t, s)
	check := func() {
		t.Helper()
		out, code := sniffOne(t, s, "icmp")
		if code != 0 || !strings.Contains(out, "ICMP echo") {
			t.Errorf("tcpdump ended with status %d, want 0 and a captured packet; output:\n%s", code, out)
		}
		out, code = inside(t, s, "nmap", "-n", "-Pn", "-sS", "-p", "1-100", "10.200.7.1")
		if code != 0 || !strings.Contains(out, "100 closed tcp ports (reset)") {
			t.Errorf("nmap -sS ended with status %d, want 0 and 100 closed ports; output:\n%s", code, out)
		}
		if out, code = inside(t, s, "ping", "-c", "1", "-W", "5", "10.200.7.1"); code != 0 {
			t.Errorf("ping ended with status %d, want 0; output:\n%s", code, out)
		}
		if out, code = inside(t, s, "ip", "-br", "link"); code != 0 || !strings.Contains(out, "eth0") {
			t.Errorf("ip link ended with status %d, want 0 and eth0; output:\n%s", code, out)
		}
	}
	check()
	f := startFiller(t, s)
	f.wants("packet", 60, 60, "-")
	check()
}

// TestLongFilterOfTcpdumpWorks: if a filter is longer than an instance may set, libpcap filters in
// user space.
func TestLongFilterOfTcpdumpWorks(t *testing.T) {
	s := newSpec(t, "long-filter", DefaultImage)
	boot(t, s)
	expression := "icmp"
	for i := range 100 {
		expression += fmt.Sprintf(" or (host 192.0.2.%d and tcp port %d)", i%256, i+1)
	}
	out, code := sniffOne(t, s, expression)
	if code != 0 || !strings.Contains(out, "ICMP echo") || !strings.Contains(out, "kernel memory for filter") {
		t.Errorf("tcpdump with a long filter ended with status %d, want 0, a warning and a captured packet; output:\n%s", code, out)
	}
}

func TestGuardEndsWithInstance(t *testing.T) {
	s := newSpec(t, "guard", DefaultImage)
	inst := boot(t, s)
	guard := guardOf(t, s)
	unix.Kill(inst.Pid(), unix.SIGKILL) // init dies without any cleanup, as if it had crashed
	testwait.For(t, "the guard ends with init", func() bool { return !guard.Alive() })

	boot(t, s)
	guard = guardOf(t, s)
	if err := Remove(s); err != nil {
		t.Fatal(err)
	}
	if guard.Alive() {
		t.Error("the guard still runs after Remove")
	}
}

// TestPacketSocketFailsWithoutGuard: the guarded calls of running processes fail after the guard has
// died. Commands that enter afterwards have another guard.
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
	after := startFiller(t, s) // served by another guard, which counts the earlier sockets too
	after.wants("packet", 4000, maxPacketSockets-1, "ENOBUFS")
	before.wants("packet", 1, 0, "ENOSYS")
}

// TestGuardUsesLittleMemory: a guard and an init must be small, because a node has one of each for
// every instance.
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
			t.Errorf("the %s has %d KiB of anonymous memory (error %v), want at most 8,192", what, kib, err)
		}
	}
}

// TestGuardLimitsItsProcessorTime: however many calls an instance makes, its guard uses at most a
// fifth of a processor, because the guard's time is not charged to the instance.
func TestGuardLimitsItsProcessorTime(t *testing.T) {
	s := newSpec(t, "share", DefaultImage)
	boot(t, s)
	guard := guardOf(t, s)
	var fillers []*filler
	for range 8 {
		f := startFiller(t, s)
		f.wants("udp", 0, 0, "-") // wait until the filler runs
		fillers = append(fillers, f)
	}
	begin, before := time.Now(), processorTime(t, guard)
	var wg sync.WaitGroup
	for _, f := range fillers {
		wg.Go(func() { f.do("open-sockets-for-1s", 1) })
	}
	wg.Wait()
	if used, took := processorTime(t, guard)-before, time.Since(begin); used > took*3/10 {
		t.Errorf("the guard used %v of processor time in %v, want about a fifth, at most 3/10", used, took)
	}
}

// processorTime returns the processor time that a process has used.
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

// TestGuardOutlivesDaemon boots the instance from a daemon that is then killed. The guard still
// limits the sockets, and ends when the next daemon kills the instance.
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
		t.Errorf("after Kill these processes are in the network namespace: %v, want none", left)
	}
}

// TestSocketCallSurvivesSignalsToGuard: the Go runtime sends many signals to the threads of the
// guard. Nevertheless each socket call inside returns a new socket, and never the descriptor 0, which
// is standard input.
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
		t.Errorf("the script that opens sockets ended with status %d (error %v), want 0; output: %s", code, err, &output)
	}
}
