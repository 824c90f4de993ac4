//go:build soak

package scenarios

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/ec2"
	"palisade/internal/bench/storm"
	"palisade/internal/bench/traffic"
	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
	vswitch "palisade/switch"
)

// TestMain lets the test binary be what storms, inside an instance.
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

// The bounds of the storm.
const (
	stormBehind = 20.0             // points that a neighbour's share may be below what it is beside the bridge
	stormProbes = 10_000_000       // that no rule admits; fewer make the run void
	stormFor    = 36 * time.Second // of each blow in which two pairs are measured, on a machine that has other work
	stormTCP    = 6                // seconds of each measurement by iperf3, after one that does not count
	steadyCount = 200              // connections that must outlive the storm

	// stormProbeRate is how many probes a second each of three probers sends. What a full queue
	// refuses was not sent and does not count.
	stormProbeRate = 80_000

	// stormSlow is how many slow sockets mallory asks for. With the filters of many more the
	// memory of an instance is full, and the kernel ends her before the storm begins.
	stormSlow = 2000
)

// The ports of the near and far targets, and of the others.
const (
	openPort   = 9001
	groupPort  = 9002
	closedPort = 9003
	iperfPort  = 5201
	steadyPort = 7000
)

// TestSoakStorm lets one instance of a lab of three nodes send all that it can at once, and
// holds what its neighbours keep against what they keep beside a Linux bridge with nftables
// under the same storm:
//
//	node1  mallory, client, near (client's iperf3), target1, victim, prober, steady
//	node2  far (client's iperf3), target2, victim, prober, steady
//	node3  victim, prober, steady
//
// Mallory's blow comes three times: with busy loops of low priority, which leave her senders
// the processors; with loops of full priority; and with probes by all probers. Her targets
// admit anybody on openPort, and a group that she is not in on groupPort. The victims admit
// nothing from anybody who sends here.
func TestSoakStorm(t *testing.T) {
	if n := soakNodes(t); n != 3 {
		t.Fatalf("the storm is for a lab of three nodes, not PALISADE_SOAK_NODES=%d", n)
	}
	l := newSoakLab(t, "storm", "--limits", "today")
	w := newStormLab(l)
	victims, steady := w.victims(), newSteady(t, w)
	before := l.Status(l.t)

	mine := measureStorm(t, w)

	// The third blow, with probes, and then probes alone until there are enough.
	blown := make(chan storm.Blown, 1)
	go func() { blown <- w.blow(t, true, 20*time.Second) }()
	w.awaitStorm(t)
	probed := w.probe(t, 20*time.Second, stormProbes)
	t.Logf("palisade, third blow: %s", stormText(<-blown))
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
			t.Errorf("%s was started again: process %d, before %d, %d restarts %+v", n.Name, n.PID, before.Nodes[i].PID, n.Restarts, n.Trouble)
		}
	}
	if after.Door.PID != before.Door.PID {
		t.Errorf("the front door was started again %d times", after.Door.Restarts)
	}
	t.Logf("| daemons started again | connections lost of %d | wrong admissions of %d probes |", steadyCount, probed)
	t.Logf("| %d | %d | %d |", restarts, lost, wrong)
	if lost > 0 {
		t.Errorf("%d of %d connections were lost", lost, steadyCount)
	}
	if wrong > 0 {
		t.Errorf("%d wrong admissions", wrong)
	}
	if probed < stormProbes {
		t.Errorf("void: %d probes were sent, %d are wanted", probed, stormProbes)
	}

	theirs := measureStorm(t, newStormRival(t, w, mine.held))
	t.Logf("| what | palisade alone, Gbit/s | in the storm | share | bridge alone | in the storm | share |")
	for i, m := range mine.rows {
		r := theirs.rows[i]
		t.Logf("| %s | %.2f | %.2f | %.0f %% | %.2f | %.2f | %.0f %% |", m.what, m.alone/1e9, m.within/1e9, m.share(), r.alone/1e9, r.within/1e9, r.share())
		if behind := r.share() - m.share(); behind > stormBehind {
			t.Errorf("%s: a neighbour keeps %.0f %% of its throughput, %.0f points less than the %.0f %% beside a Linux bridge; %.0f are allowed",
				m.what, m.share(), behind, r.share(), stormBehind)
		}
	}
}

// A stormWorld is where a storm is: the lab, or the bridge.
type stormWorld struct {
	name  string
	hosts map[string]storm.Host // by role, with their own MACs
	// via is whom a frame for a host is addressed to.
	via func(storm.Host) ec2.MAC
	// namespace is the network of a role.
	namespace map[string]string
	// command makes a command that start runs as a role.
	command func(ctx context.Context, role string, argv ...string) *exec.Cmd
	start   func(role string, cmd *exec.Cmd) error
	program func(role string) string // the test binary, where role sees it

	lab    *soakLab // nil: the bridge
	limits stormLimits
	storm  *storm.Process
	corpus []storm.Frame
}

// A stormLimits is what mallory could get in the lab; beside the bridge she gets no more.
type stormLimits struct {
	init  int // pid of the process that is in her cgroup
	loops int
	slow  int
}

// to is a host as the destination of frames.
func (w *stormWorld) to(role string) storm.Host {
	h := w.hosts[role]
	return storm.Host{Address: h.Address, MAC: w.via(h)}
}

// run runs a command as a role and returns its standard output.
func (w *stormWorld) run(ctx context.Context, role string, argv ...string) ([]byte, error) {
	cmd := w.command(ctx, role, argv...)
	var out, problem strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problem
	err := w.start(role, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", argv[0], err, problem.String())
	}
	return []byte(out.String()), err
}

// newStormLab launches the instances.
func newStormLab(l *soakLab) *stormWorld {
	t := l.t
	t.Helper()
	api := l.api("albert")
	names := []string{"mallory", "client", "server", "target", "victim", "prober", "steady", "friends"}
	l.groups(api, names...)
	anybody := "0.0.0.0/0"
	for group, rules := range map[string][]soakRule{
		"server": {{protocol: "tcp", port: iperfPort, group: "client"}},
		"target": {{protocol: "tcp", port: openPort, cidr: anybody}, {protocol: "udp", port: openPort, cidr: anybody}, {protocol: "tcp", port: groupPort, group: "friends"}},
		"victim": {{protocol: "tcp", port: groupPort, group: "friends"}, {protocol: "tcp", port: 22, cidr: lab.LaptopAddress + "/32"}},
		"steady": {{protocol: "tcp", port: steadyPort, group: "steady"}},
	} {
		if _, err := api.authorize(group, rules...); err != nil {
			t.Fatalf("rules of %s: %v", group, err)
		}
	}
	nodes := []string{l.nodes[0].Name, l.nodes[1].Name, l.nodes[2].Name}
	w := &stormWorld{name: "palisade", lab: l, hosts: map[string]storm.Host{}, namespace: map[string]string{}}
	ids := map[string]string{}
	add := func(role string, in lab.InstanceStatus) {
		mac, err := net.ParseMAC(in.MAC)
		if err != nil {
			t.Fatalf("MAC of %s: %v", role, err)
		}
		w.hosts[role] = storm.Host{Address: netip.MustParseAddr(in.PrivateAddress), MAC: ec2.MAC(mac)}
		w.namespace[role], ids[role] = in.Namespace, in.ID
	}
	// Few at a time: their services have seconds to listen, which they share with the fuzz
	// targets that may run beside.
	for _, group := range []struct {
		name  string
		roles []string // of each node in turn
	}{
		{"victim", []string{"victim1", "victim2", "victim3"}}, {"prober", []string{"prober1", "prober2", "prober3"}},
		{"steady", []string{"steady1", "steady2", "steady3"}}, {"server", []string{"near", "far"}}, {"target", []string{"target1", "target2"}},
		{"mallory", []string{"mallory"}}, {"client", []string{"client"}},
	} {
		placed := l.launchIn(api, nodes[:len(group.roles)], group.name)
		for i, role := range group.roles {
			add(role, placed[group.name][nodes[i]])
		}
	}

	w.via = func(storm.Host) ec2.MAC { return vswitch.GatewayMAC }
	w.command = func(ctx context.Context, role string, argv ...string) *exec.Cmd {
		return exec.CommandContext(ctx, l.Palisade, append([]string{"lab", "exec", "--name", l.Name, ids[role], "--"}, argv...)...)
	}
	w.start = func(_ string, cmd *exec.Cmd) error { return cmd.Start() }
	w.program = func(string) string { return "/tmp/storm" }
	for _, role := range []string{"mallory", "prober1", "prober2", "prober3"} {
		w.carry(t, role)
	}
	w.limits = w.limitsOf(t)
	w.serveOpenPort(t)
	return w
}

// carry puts the test binary into an instance.
func (w *stormWorld) carry(t *testing.T, role string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := w.command(t.Context(), role, "sh", "-c", "cat > /tmp/storm && chmod 755 /tmp/storm")
	cmd.Stdin = file
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("carry the storm into %s: %v\n%s", role, err, out)
	}
}

// limitsOf reads how many processes mallory may have. Her senders and the instance's own
// programs want some of them.
func (w *stormWorld) limitsOf(t *testing.T) stormLimits {
	t.Helper()
	limits := stormLimits{init: initOf(t, w.namespace["mallory"]), loops: 512, slow: stormSlow}
	for _, dir := range cgroupsOf(t, limits.init) {
		text, err := os.ReadFile(dir.path + "/pids.max")
		if most, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
			limits.loops = min(limits.loops, most-64)
		}
	}
	return limits
}

// listen listens on a port of a host until the test ends.
func (w *stormWorld) listen(t *testing.T, role string, port uint16) net.Listener {
	t.Helper()
	var listener net.Listener
	err := netns.Do(w.namespace[role], func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(w.hosts[role].Address, port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// serveOpenPort answers on the near target's open port: it sends without end.
func (w *stormWorld) serveOpenPort(t *testing.T) {
	t.Helper()
	listener := w.listen(t, "target1", openPort)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				zeros := make([]byte, 64<<10)
				for {
					if _, err := conn.Write(zeros); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// A stormResult is what a world's neighbours kept.
type stormResult struct {
	rows []stormRow
	held storm.Held
}

type stormRow struct {
	what          string
	alone, within float64 // bits a second
}

// share is what was kept, in percent. More than all is what other work on the machine makes of it.
func (r stormRow) share() float64 {
	if r.alone == 0 {
		return 0
	}
	return min(100, 100*r.within/r.alone)
}

// measureStorm measures two pairs without the storm and in two blows.
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
			} else if time.Now().After(deadline) { // it may take a moment to listen
				t.Fatalf("%s, without the storm: %v", w.name, err)
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
	t.Logf("%s: mallory holds %d slow packet sockets, %d that are not read, %d connections that are not read; then: %s",
		w.name, held.Slow, held.Unread, held.Connections, held.Refused)
	for _, blow := range []struct {
		name string
		idle bool
	}{{"loops of idle priority", true}, {"loops of full priority", false}} {
		blown := make(chan storm.Blown, 1)
		go func() { blown <- w.blow(t, blow.idle, stormFor) }()
		w.awaitStorm(t)
		for _, server := range []string{"near", "far"} {
			rate, err := w.iperf(t, server)
			if err != nil {
				t.Logf("%s, %s, in the storm with %s: %v", w.name, server, blow.name, err)
			}
			row := stormRow{server + ", " + blow.name, alone[server], rate}
			result.rows = append(result.rows, row)
			t.Logf("%s, %s: %.2f Gbit/s, alone %.2f, %.0f %%", w.name, row.what, row.within/1e9, row.alone/1e9, row.share())
		}
		select {
		case b := <-blown:
			t.Errorf("void: %s: the storm ended before the measurement: %s", w.name, stormText(b))
		default:
			t.Logf("%s, %s: %s", w.name, blow.name, stormText(<-blown))
		}
	}
	if w.lab == nil {
		w.storm.Kill()
	}
	return result
}

// begin starts mallory's process and makes its corpus.
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

// blow is one storm of all that mallory has.
func (w *stormWorld) blow(t *testing.T, idle bool, within time.Duration) storm.Blown {
	blown, err := w.storm.Blow(storm.Blow{
		Device: "eth0", Me: w.hosts["mallory"], Near: w.to("target1"), Far: w.to("target2"), For: within,
		SYNPorts: []uint16{closedPort, groupPort, openPort}, SYNRate: 20_000,
		FlowPort: openPort, Flows: 65_000, ARP: true,
		Datagrams: 20_000, DatagramPorts: []uint16{openPort, closedPort},
		Corpus: w.corpus, CorpusRate: 10_000,
		Loops: w.limits.loops, Idle: idle,
	})
	if err != nil {
		t.Errorf("%s: the storm: %v", w.name, err)
	}
	return blown
}

func stormText(b storm.Blown) string {
	rate := func(n uint64, took time.Duration) float64 { return float64(n) / max(took.Seconds(), 1e-9) }
	sent := func(what string, s traffic.Sent) string {
		return fmt.Sprintf("%s: %.0f a second, of which her device took %.0f", what, rate(s.Offered, s.Took), rate(s.Offered-s.Refused, s.Took))
	}
	return fmt.Sprintf("%s; %s; %s; %d small datagrams; %d frames of the corpus, and %d that her kernel refused; %d busy loops",
		sent("SYNs", b.SYNs), sent("flows", b.Flows), sent("ARP requests", b.ARPs), b.Datagrams, b.Corpus, b.Refused, b.Loops)
}

// awaitStorm waits until frames leave mallory's device.
func (w *stormWorld) awaitStorm(t *testing.T) {
	t.Helper()
	first := w.statistics(t, "mallory").TxPackets
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(labtest.Patience); w.statistics(t, "mallory").TxPackets < first+1000; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: no storm", w.name)
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
		t.Fatalf("statistics of %s: %v", role, err)
	}
	return s
}

// iperf is the throughput from client to a server in bits a second. Where iperf3 does not come to
// its end, it is what the server's device received meanwhile.
func (w *stormWorld) iperf(t *testing.T, server string) (float64, error) {
	const within = (stormTCP + 4) * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), within+2*time.Second)
	defer cancel()
	before, begun := w.statistics(t, server).RxBytes, time.Now()
	// timeout ends it where it runs; the server would be busy with it otherwise.
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

// probe lets the probers of all nodes send what no rule admits to the victims of all nodes, and
// returns how many frames their devices took.
func (w *stormWorld) probe(t *testing.T, within time.Duration, most int) int {
	t.Helper()
	var wg sync.WaitGroup
	var taken atomic.Uint64
	for i := range 3 {
		wg.Go(func() {
			role := fmt.Sprintf("prober%d", i+1)
			cmd := w.command(context.Background(), role, w.program(role), "storm")
			p, err := storm.Start(cmd, func(cmd *exec.Cmd) error { return w.start(role, cmd) })
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Kill()
			probed, err := p.Probe(storm.Probe{
				Device: "eth0", Me: w.hosts[role], To: []storm.Host{w.to("victim1"), w.to("victim2"), w.to("victim3")},
				Ports: []uint16{22, groupPort, closedPort, 80, openPort}, Rate: stormProbeRate, For: within, Most: uint64(most+2) / 3,
			})
			if err != nil {
				t.Errorf("%s: %v", role, err)
				return
			}
			taken.Add(probed.Taken)
			t.Logf("%s: %d probes in %v, %d more found the queue full", role, probed.Taken, probed.Took.Round(time.Millisecond), probed.Refused)
		})
	}
	wg.Wait()
	return int(taken.Load())
}

// victims is how many packets each victim has received, and begins to count what mallory gets
// to her targets.
func (w *stormWorld) victims() map[string]uint64 {
	t := w.lab.t
	t.Helper()
	received := map[string]uint64{}
	for i := range 3 {
		role := fmt.Sprintf("victim%d", i+1)
		received[role] = w.statistics(t, role).RxPackets
	}
	mallory := w.hosts["mallory"].Address
	for _, role := range []string{"target1", "target2"} {
		// Before the kernel puts fragments together: each packet is seen as it arrived.
		script := fmt.Sprintf(`table netdev storm {
	counter admitted {}
	counter wrong {}
	chain arrives {
		type filter hook ingress device eth0 priority 0
		ip saddr %[1]s tcp dport %[2]d counter name admitted return
		ip saddr %[1]s udp dport %[2]d counter name admitted return
		ip saddr %[1]s counter name wrong
	}
}`, mallory, openPort)
		if out, err := nftIn(w.namespace[role], script, "-f", "-"); err != nil {
			t.Fatalf("count at %s: %v\n%s", role, err, out)
		}
	}
	return received
}

// nftIn runs nft in a namespace.
func nftIn(namespace, input string, args ...string) (string, error) {
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(input)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := netns.Do(namespace, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

// counted reads a counter at a target.
func (w *stormWorld) counted(t *testing.T, role, counter string) uint64 {
	t.Helper()
	out, err := nftIn(w.namespace[role], "", "-j", "list", "counter", "netdev", "storm", counter)
	var answer struct {
		All []struct {
			Counter struct {
				Packets uint64 `json:"packets"`
			} `json:"counter"`
		} `json:"nftables"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &answer)
	}
	if err != nil {
		t.Fatalf("counter %s at %s: %v\n%s", counter, role, err, out)
	}
	total := uint64(0)
	for _, item := range answer.All {
		total += item.Counter.Packets
	}
	return total
}

// wrong is how many packets arrived that no rule admits.
func (w *stormWorld) wrong(t *testing.T, before map[string]uint64) uint64 {
	t.Helper()
	total := uint64(0)
	for role, n := range before {
		if now := w.statistics(t, role).RxPackets; now != n {
			t.Errorf("%s received %d packets", role, now-n)
			total += now - n
		}
	}
	for _, role := range []string{"target1", "target2"} {
		wrong, admitted := w.counted(t, role, "wrong"), w.counted(t, role, "admitted")
		t.Logf("%s received %d packets of mallory on its open port, and %d others", role, admitted, wrong)
		if total += wrong; wrong > 0 {
			t.Errorf("%s received %d packets of mallory that no rule admits", role, wrong)
		}
		if admitted == 0 {
			t.Errorf("void: %s received nothing on the port that is open to mallory", role)
		}
	}
	return total
}

// checkCounters opens a port of the victims to the probers: what is admitted must be counted.
func (w *stormWorld) checkCounters(t *testing.T, before map[string]uint64) {
	t.Helper()
	if _, err := w.lab.api("albert").authorize("victim", soakRule{protocol: "udp", port: openPort, group: "prober"}); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, "what a rule admits is counted at the victims", func() bool {
		w.probe(t, time.Second, 3000)
		for role, n := range before {
			if w.statistics(t, role).RxPackets == n {
				return false
			}
		}
		return true
	})
}

// steady are connections between instances that exchange a few bytes each second.
type steady struct {
	stop    chan struct{}
	wg      sync.WaitGroup
	failed  atomic.Int64
	answers atomic.Int64
	failure atomic.Value // of one of them
}

// newSteady opens the connections, among the three nodes in turn.
func newSteady(t *testing.T, w *stormWorld) *steady {
	t.Helper()
	for i := range 3 {
		role := fmt.Sprintf("steady%d", i+1)
		listener := w.listen(t, role, steadyPort)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					io.Copy(conn, conn)
				}()
			}
		}()
	}
	s := &steady{stop: make(chan struct{})}
	for i := range steadyCount {
		from, to := fmt.Sprintf("steady%d", 1+i%3), fmt.Sprintf("steady%d", 1+(i/3)%3)
		if from == to {
			to = fmt.Sprintf("steady%d", 1+(i+1)%3)
		}
		var conn net.Conn
		err := netns.Do(w.namespace[from], func() (err error) {
			conn, err = net.DialTimeout("tcp4", netip.AddrPortFrom(w.hosts[to].Address, steadyPort).String(), labtest.Patience)
			return err
		})
		if err != nil {
			t.Fatalf("connection %d, from %s to %s: %v", i, from, to, err)
		}
		t.Cleanup(func() { conn.Close() })
		s.wg.Go(func() { s.runExchange(conn) })
	}
	return s
}

// runExchange goes on until stop is closed, and then makes one exchange more.
func (s *steady) runExchange(conn net.Conn) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for number, last := uint64(0), false; !last; number++ {
		select {
		case <-tick.C:
		case <-s.stop:
			last = true
		}
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], number)
		conn.SetDeadline(time.Now().Add(3 * labtest.Patience)) // an answer may be late in a storm; it may not fail to come
		_, err := conn.Write(b[:])
		if err == nil {
			_, err = io.ReadFull(conn, b[:])
		}
		if err == nil && binary.BigEndian.Uint64(b[:]) != number {
			err = fmt.Errorf("answer %d to %d", binary.BigEndian.Uint64(b[:]), number)
		}
		if err != nil {
			s.failed.Add(1)
			s.failure.Store(err.Error())
			return
		}
		s.answers.Add(1)
	}
}

// lost ends the exchange and is how many connections did not outlive the storm.
func (s *steady) lost(t *testing.T) int64 {
	close(s.stop)
	s.wg.Wait()
	if n := s.failed.Load(); n > 0 {
		t.Logf("of the connections that were lost, one says: %v", s.failure.Load())
	}
	t.Logf("%d exchanges on %d connections", s.answers.Load(), steadyCount)
	return s.failed.Load()
}
