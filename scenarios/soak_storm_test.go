//go:build soak

package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/internal/bench/storm"
	"palisade/internal/bench/traffic"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// TestMain lets the test binary be the program that sends the storm inside an instance.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "storm" {
		if err := storm.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The bounds and durations of the storm.
const (
	stormBehind = 20.0             // percentage points by which a neighbour's share may be lower than with the bridge
	stormProbes = 10_000_000       // probes that no rule admits; with fewer the run is void
	stormFor    = 36 * time.Second // duration of each storm in which two pairs are measured
	stormTCP    = 6                // seconds of each measurement by iperf3, after a first second that iperf3 leaves out
	steadyCount = 200              // connections that must survive the storm

	// stormProbeRate is the number of probes that each of three probers sends in a second. Probes
	// that a full queue refuses do not count.
	stormProbeRate = 80_000

	// stormSlow is the number of slow sockets that mallory tries to open. The filters of many more
	// would fill the memory of the instance, and the kernel would kill it before the storm.
	stormSlow = 2000
)

// The TCP and UDP ports of targets, victims and servers.
const (
	openPort   = 9001
	groupPort  = 9002
	closedPort = 9003
	iperfPort  = 5201
	steadyPort = 7000
)

// TestSoakStormSparesNeighbours lets one instance, mallory, send as much as it can, in a lab of three nodes. The
// test measures which share of their throughput other instances keep. It compares that share with the one on
// a Linux bridge with nftables in the same storm:
//
//	node1  mallory, client, near (client's iperf3), target1, victim, prober, steady
//	node2  far (client's iperf3), target2, victim, prober, steady
//	node3  victim, prober, steady
//
// There are three storms: one with busy loops of low priority, which leave the processors to mallory's senders;
// one with loops of full priority; and one while all probers send probes. The targets admit everybody on
// openPort, and on groupPort a group that mallory is not in. The victims admit nothing that the test sends.
func TestSoakStormSparesNeighbours(t *testing.T) {
	if n := soakNodes(t); n != 3 {
		t.Fatalf("the storm needs a lab of three nodes, not PALISADE_SOAK_NODES=%d", n)
	}
	l := newSoakLab(t, "storm", "--limits", "today")
	w := newStormLab(l)
	victims, steady := w.victims(), newSteady(t, w)
	before := l.Status(l.t)

	mine := measureStorm(t, w)

	// During the third storm the probers send too. After it they send until there are enough probes.
	results := make(chan storm.AttackResult, 1)
	go func() { results <- w.attack(t, true, 20*time.Second) }()
	w.awaitStorm(t)
	probed := w.probe(t, 20*time.Second, stormProbes)
	t.Logf("palisade, third storm: %s", stormText(<-results))
	for round := 0; probed < stormProbes && round < 40; round++ {
		probed += w.probe(t, 10*time.Second, stormProbes-probed)
	}
	w.storm.Kill()
	after := l.Status(l.t)

	wrong := w.wrong(t, victims)
	w.checkCounters(t, victims)
	lost := steady.lost(t)
	restarts := 0
	for i, n := range after.Nodes {
		restarts += n.Restarts
		if n.PID != before.Nodes[i].PID || n.Restarts != 0 {
			t.Errorf("the daemon of %s was restarted: pid %d, before the storm %d; %d restarts, trouble %+v", n.Name, n.PID, before.Nodes[i].PID, n.Restarts, n.Trouble)
		}
	}
	if after.Door.PID != before.Door.PID {
		t.Errorf("the front door was restarted %d times", after.Door.Restarts)
	}
	t.Logf("| daemons restarted | connections lost of %d | wrong admissions of %d probes |", steadyCount, probed)
	t.Logf("| %d | %d | %d |", restarts, lost, wrong)
	if lost > 0 {
		t.Errorf("%d of %d connections were lost, want 0", lost, steadyCount)
	}
	if wrong > 0 {
		t.Errorf("%d packets arrived that no rule admits, want 0", wrong)
	}
	if probed < stormProbes {
		t.Errorf("void: %d probes were sent, want %d", probed, stormProbes)
	}

	theirs := measureStorm(t, newStormRival(t, w, mine.held))
	t.Logf("| pair | palisade alone, Gbit/s | in the storm | share | bridge alone | in the storm | share |")
	for i, m := range mine.rows {
		r := theirs.rows[i]
		t.Logf("| %s | %.2f | %.2f | %.0f %% | %.2f | %.2f | %.0f %% |", m.what, m.alone/1e9, m.within/1e9, m.share(), r.alone/1e9, r.within/1e9, r.share())
		if behind := r.share() - m.share(); behind > stormBehind {
			t.Errorf("%s: a neighbour keeps %.0f %% of its throughput, %.0f points less than the %.0f %% beside a Linux bridge; %.0f are allowed",
				m.what, m.share(), behind, r.share(), stormBehind)
		}
	}
}

// A stormResult has the throughput of mallory's neighbours, in the lab or on the bridge.
type stormResult struct {
	rows []stormRow
	held storm.Held
}

type stormRow struct {
	what          string
	alone, within float64 // throughput without and in the storm, in bits a second
}

// share returns the throughput in the storm in percent of the throughput without it, but at most 100: other load
// on the machine may have lowered the throughput without the storm.
func (r stormRow) share() float64 {
	if r.alone == 0 {
		return 0
	}
	return min(100, 100*r.within/r.alone)
}

// measureStorm measures the throughput from client to near and from client to far, without a storm and in two
// storms.
func measureStorm(t *testing.T, w *stormWorld) (result stormResult) {
	t.Helper()
	for _, server := range []string{"near", "far"} {
		cmd := w.command(context.Background(), server, "iperf3", "-s", "-p", fmt.Sprint(iperfPort))
		if err := w.start(server, cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	alone := map[string]float64{}
	for _, server := range []string{"near", "far"} {
		deadline := time.Now().Add(labtest.Patience)
		for alone[server] == 0 {
			rate, err := w.iperf(t, server)
			if err == nil {
				alone[server] = rate
			} else if time.Now().After(deadline) { // the server may not listen yet
				t.Fatalf("%s: iperf3 to %s, without the storm: %v", w.name, server, err)
			}
		}
	}
	w.begin(t)
	held, err := w.storm.Hold(storm.Hold{Device: "eth0", Slow: w.limits.slow, Instructions: 100, Unread: 20,
		Connections: 50, To: netip.AddrPortFrom(w.hosts["target1"].Address, openPort)})
	if err != nil {
		t.Fatal(err)
	}
	result.held = held
	t.Logf("%s: mallory holds %d slow packet sockets, %d without a reader, %d connections without a reader; then: %s",
		w.name, held.Slow, held.Unread, held.Connections, held.Refused)
	for _, loops := range []struct {
		name string
		idle bool
	}{{"loops of idle priority", true}, {"loops of full priority", false}} {
		results := make(chan storm.AttackResult, 1)
		go func() { results <- w.attack(t, loops.idle, stormFor) }()
		w.awaitStorm(t)
		for _, server := range []string{"near", "far"} {
			rate, err := w.iperf(t, server)
			if err != nil {
				t.Logf("%s: iperf3 to %s, in the storm with %s: %v", w.name, server, loops.name, err)
			}
			row := stormRow{server + ", " + loops.name, alone[server], rate}
			result.rows = append(result.rows, row)
			t.Logf("%s, %s: %.2f Gbit/s, alone %.2f, %.0f %%", w.name, row.what, row.within/1e9, row.alone/1e9, row.share())
		}
		select {
		case b := <-results:
			t.Errorf("void: %s: the storm ended before the measurement did; it sent %s", w.name, stormText(b))
		default:
			t.Logf("%s, %s: %s", w.name, loops.name, stormText(<-results))
		}
	}
	if w.lab == nil {
		w.storm.Kill()
	}
	return result
}

// begin starts mallory's process, which sends the storms, and makes the corpus of frames that it sends.
func (w *stormWorld) begin(t *testing.T) {
	t.Helper()
	cmd := w.command(context.Background(), "mallory", w.program("mallory"), "storm")
	p, err := storm.Start(cmd, func(cmd *exec.Cmd) error { return w.start("mallory", cmd) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	w.storm = p
	w.corpus, err = storm.Corpus(w.hosts["mallory"], []storm.Host{w.to("target1"), w.to("target2")},
		"../internal/packet", "../switch", "../switch/overlay")
	if err != nil {
		t.Fatal(err)
	}
}

// attack lets mallory send one storm with everything that it can send, for the time within. idle says whether
// the busy loops have idle priority.
func (w *stormWorld) attack(t *testing.T, idle bool, within time.Duration) storm.AttackResult {
	result, err := w.storm.Attack(storm.Attack{
		Device: "eth0", Me: w.hosts["mallory"], Near: w.to("target1"), Far: w.to("target2"), For: within,
		SYNPorts: []uint16{closedPort, groupPort, openPort}, SYNRate: 20_000,
		FlowPort: openPort, Flows: 65_000, ARP: true,
		Datagrams: 20_000, DatagramPorts: []uint16{openPort, closedPort},
		Corpus: w.corpus, CorpusRate: 10_000,
		Loops: w.limits.loops, Idle: idle,
	})
	if err != nil {
		t.Errorf("%s: send the storm: %v", w.name, err)
	}
	return result
}

// stormText describes the frames that a storm sent.
func stormText(b storm.AttackResult) string {
	rate := func(n uint64, took time.Duration) float64 { return float64(n) / max(took.Seconds(), 1e-9) }
	sent := func(what string, s traffic.Sent) string {
		return fmt.Sprintf("%s: %.0f a second, of which the device took %.0f", what, rate(s.Offered, s.Took), rate(s.Offered-s.Refused, s.Took))
	}
	return fmt.Sprintf("%s; %s; %s; %d small datagrams; %d frames of the corpus, and %d that the kernel refused; %d busy loops",
		sent("SYNs", b.SYNs), sent("flows", b.Flows), sent("ARP requests", b.ARPs), b.Datagrams, b.Corpus, b.Refused, b.Loops)
}

// awaitStorm waits until mallory's device has sent 1,000 frames.
func (w *stormWorld) awaitStorm(t *testing.T) {
	t.Helper()
	first := w.statistics(t, "mallory").TxPackets
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(labtest.Patience); w.statistics(t, "mallory").TxPackets < first+1000; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: mallory sent fewer than 1000 frames in %v", w.name, labtest.Patience)
		}
	}
}

func (w *stormWorld) statistics(t *testing.T, role string) netlink.LinkStatistics {
	t.Helper()
	var s netlink.LinkStatistics
	err := netns.Do(w.namespace[role], func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			s = *link.Attrs().Statistics
		}
		return err
	})
	if err != nil {
		t.Fatalf("read the statistics of eth0 of %s: %v", role, err)
	}
	return s
}

// iperf returns the throughput from client to a server in bits a second, as iperf3 measures it. If iperf3
// fails, iperf returns its error, and the throughput by the counter of the server's device.
func (w *stormWorld) iperf(t *testing.T, server string) (float64, error) {
	const within = (stormTCP + 4) * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), within+2*time.Second)
	defer cancel()
	before, begun := w.statistics(t, server).RxBytes, time.Now()
	// The command timeout kills iperf3 inside the instance. If iperf3 went on, the server would stay busy.
	out, err := w.run(ctx, "client", "timeout", fmt.Sprint(within.Seconds()), "iperf3", "-c", w.hosts[server].Address.String(), "-p", fmt.Sprint(iperfPort),
		"-t", fmt.Sprint(stormTCP), "-O", "1", "--connect-timeout", "4000", "--json")
	var report struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	bad := json.Unmarshal(out, &report)
	if report.Error != "" {
		err = errors.New(report.Error)
	}
	if err != nil || bad != nil {
		bits := 8 * float64(w.statistics(t, server).RxBytes-before)
		return bits / time.Since(begun).Seconds(), errors.Join(err, bad)
	}
	return report.End.Received.Rate, nil
}
