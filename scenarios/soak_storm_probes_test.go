//go:build soak

package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"palisade/internal/bench/storm"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// probe lets the probers of all nodes send packets to the victims of all nodes, for the time within, but no more than
// most packets in all. No rule admits these packets. probe returns how many of them the probers' devices accepted.
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
			t.Logf("%s: %d probes in %v; %d more were refused, because the queue was full", role, probed.Taken, probed.Took.Round(time.Millisecond), probed.Refused)
		})
	}
	wg.Wait()
	return int(taken.Load())
}

// victims returns the number of packets that each victim has received, by role. It also makes counters of
// mallory's packets at the targets, which the method counted reads.
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
		// Count at the ingress hook, which comes before the kernel reassembles fragments.
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
			t.Fatalf("make counters at %s: %v\n%s", role, err, out)
		}
	}
	return received
}

// nftIn runs nft in a namespace, with input on its standard input, and returns its output.
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

// counted returns the value of a counter at a target.
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
		t.Fatalf("read counter %s at %s: %v\n%s", counter, role, err, out)
	}
	total := uint64(0)
	for _, item := range answer.All {
		total += item.Counter.Packets
	}
	return total
}

// wrong returns the number of packets that arrived at victims and targets although no rule admits them. before
// is the result of victims.
func (w *stormWorld) wrong(t *testing.T, before map[string]uint64) uint64 {
	t.Helper()
	total := uint64(0)
	for role, n := range before {
		if now := w.statistics(t, role).RxPackets; now != n {
			t.Errorf("%s received %d packets, want 0", role, now-n)
			total += now - n
		}
	}
	for _, role := range []string{"target1", "target2"} {
		wrong, admitted := w.counted(t, role, "wrong"), w.counted(t, role, "admitted")
		t.Logf("%s received %d packets of mallory on the open port, and %d others", role, admitted, wrong)
		if total += wrong; wrong > 0 {
			t.Errorf("%s received %d packets of mallory that no rule admits, want 0", role, wrong)
		}
		if admitted == 0 {
			t.Errorf("void: %s received none of mallory's packets to the open port, so its counters prove nothing", role)
		}
	}
	return total
}

// checkCounters opens a port of the victims to the probers, and fails t unless the victims' counters then count
// the probers' packets.
func (w *stormWorld) checkCounters(t *testing.T, before map[string]uint64) {
	t.Helper()
	if _, err := w.lab.api("albert").authorize("victim", soakRule{protocol: "udp", port: openPort, group: "prober"}); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, "admitted packets are counted at the victims", func() bool {
		w.probe(t, time.Second, 3000)
		for role, n := range before {
			if w.statistics(t, role).RxPackets == n {
				return false
			}
		}
		return true
	})
}
