//go:build soak

package scenarios

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// TestSoakPropagation measures the time from the API's reply until a change is enforced on another node:
//
//	API call ---> front door ---> a node ... the others
//	prober (node B) --SYN every 0.7 ms--> target (node A), where they are counted
//
// A rule of the target's group is authorized and revoked by turns. The latency of an authorize ends when
// the first SYN that arrives was sent, that of a revoke when the last was. One process sends, counts and
// calls, so that one monotonic clock times everything. With -short there are fewer changes.
func TestSoakPropagation(t *testing.T) {
	p := newPropagation(t, "soakprop", "mary", (*soakLab).classic)
	p.measure("of the target's ingress", p.turns(1000), "target", soakRule{protocol: "tcp", port: 80, group: "prober"})
}

// TestSoakPropagationVPC is the same in a VPC, for the target's ingress, which the target's node enforces,
// and then for the prober's egress, which the prober's node enforces.
func TestSoakPropagationVPC(t *testing.T) {
	p := newPropagation(t, "soakpropvpc", "dev", (*soakLab).vpc)
	in := soakRule{protocol: "tcp", port: 80, group: "prober"}
	p.measure("of the target's ingress", p.turns(500), "target", in)
	if _, err := p.api.revoke("prober", everythingLeaves); err != nil {
		t.Fatal(err)
	}
	if _, err := p.api.authorize("target", in); err != nil {
		t.Fatal(err)
	}
	p.measure("of the prober's egress", p.turns(500), "prober", soakRule{egress: true, protocol: "tcp", port: 80, group: "target"})
}

// A propagation is a lab in which a prober always sends to a target.
type propagation struct {
	*soakLab
	api         *soakAPI
	a, b        string // the nodes of the target and of the prober
	s           *series
	limit, goal time.Duration
}

func newPropagation(t *testing.T, name, account string, network func(*soakLab, *soakAPI) *soakNetwork) *propagation {
	l := newSoakLab(t, name)
	p := &propagation{soakLab: l, api: l.api(account), limit: 50 * time.Millisecond, goal: 25 * time.Millisecond}
	if len(l.nodes) > 3 {
		p.limit, p.goal = 100*time.Millisecond, 30*time.Millisecond
	}
	network(l, p.api)
	l.groups(p.api, "target", "prober")
	p.a = l.leader()
	p.b = p.a
	if others := l.others(p.a); len(others) > 0 { // the target on a follower, the prober on another follower if there is one
		p.a = others[0]
		p.b = others[len(others)-1]
		if p.a == p.b {
			p.b = l.leader()
		}
	}
	target := l.launchIn(p.api, []string{p.a}, "target")["target"][p.a]
	prober := l.launchIn(p.api, []string{p.b}, "prober")["prober"][p.b]
	p.s = &series{prober: proberAt(t, prober), to: netip.AddrPortFrom(netip.MustParseAddr(target.PrivateAddress), 80)}
	watch(t, target, 80, p.s.seen)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.s.runSYNs(ctx, 700*time.Microsecond) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
	})
	return p
}

// turns returns how often a rule is authorized and revoked.
func (p *propagation) turns(many int) int {
	if testing.Short() {
		return many / 10
	}
	return many
}

// measure authorizes and revokes a rule of a group. Without that rule no probe arrives.
func (p *propagation) measure(what string, turns int, group string, rule soakRule) {
	t, s := p.t, p.s
	// A revoke counts as enforced when no probe has arrived for quiet, which is longer than the
	// limit.
	quiet := 3 * p.limit
	const (
		fewest = 100 // probes that must be sent before a revoke counts as enforced
		giveUp = 5 * time.Second
	)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < quiet; {
		<-tick.C
	}
	begin, start := time.Now(), s.len()
	var opened, closed []time.Duration
	lost := 0 // probes that did not arrive between the first that did and the revoke
	for i := range turns {
		from := s.len()
		if at, ok := s.last(0); ok && time.Since(at) < quiet {
			t.Fatalf("change %d: the last admitted probe is only %v old", 2*i, time.Since(at))
		}
		reply, err := p.api.authorize(group, rule)
		if err != nil {
			t.Fatalf("authorize, change %d: %v", 2*i, err)
		}
		at, ok := s.first(from)
		for ; !ok; at, ok = s.first(from) {
			if <-tick.C; time.Since(reply) > giveUp {
				t.Fatalf("void: the authorize of change %d was not seen within %v", 2*i, giveUp)
			}
		}
		opened = append(opened, max(0, at.Sub(reply)))
		// The time from an authorize to the revoke varies.
		for settled := time.Now().Add(time.Duration(5+i*7%20) * time.Millisecond); time.Now().Before(settled); {
			<-tick.C
		}
		before := s.len()
		reply, err = p.api.revoke(group, rule)
		if err != nil {
			t.Fatalf("revoke, change %d: %v", 2*i+1, err)
		}
		begun := time.Now()
		at, _ = s.last(from)
		for ; time.Since(begun) < quiet || time.Since(at) < quiet || s.len() < before+fewest; at, _ = s.last(from) {
			if <-tick.C; time.Since(reply) > giveUp {
				t.Fatalf("void: the revoke of change %d was not seen within %v", 2*i+1, giveUp)
			}
		}
		closed = append(closed, max(0, at.Sub(reply)))
		lost += s.refused(from, before)
		if i%200 == 199 {
			t.Logf("%d changes after %v, probes sent %d", 2*i+2, time.Since(begin).Round(time.Second), s.len())
		}
	}

	rate := float64(s.len()-start) / time.Since(begin).Seconds()
	gaps := s.gaps()
	t.Logf("propagation %s, %s, %d nodes, %d changes, target on %s, prober on %s: authorize p50 %s p99 %s max %s ms; revoke p50 %s p99 %s max %s ms; "+
		"%.0f probes/s, gap p99 %s max %s ms, %d not sent, %d refused while open; goal p99 %s ms, limit %s ms",
		what, p.api.where(), len(p.nodes), len(opened)+len(closed), p.a, p.b,
		ms(percentile(opened, 50)), ms(percentile(opened, 99)), ms(percentile(opened, 100)),
		ms(percentile(closed, 50)), ms(percentile(closed, 99)), ms(percentile(closed, 100)),
		rate, ms(percentile(gaps, 99)), ms(percentile(gaps, 100)), s.unsent(), lost, ms(p.goal), ms(p.limit))
	if rate < 500 {
		t.Errorf("void: %.0f probes a second", rate)
	}
	if at := percentile(opened, 99); at > p.limit {
		t.Errorf("authorize to enforced: p99 %v, at most %v", at, p.limit)
	}
	if at := percentile(closed, 99); at > p.limit {
		t.Errorf("revoke to enforced: p99 %v, at most %v", at, p.limit)
	}
}
