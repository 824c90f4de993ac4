//go:build soak

package scenarios

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// TestSoakRuleChangeIsEnforcedInTime measures the time from the API's reply until another node enforces a change:
//
//	API call ---> front door ---> a node ... the others
//	prober (node B) --SYN every 0.7 ms--> target (node A), which counts arrived SYNs
//
// The test authorizes and revokes a rule of the target's group by turns. An authorize counts as enforced when
// the first SYN that arrived was sent, a revoke when the last SYN that arrived was sent. One process sends,
// counts and calls, so that one monotonic clock times everything. With -short there are fewer changes.
func TestSoakRuleChangeIsEnforcedInTime(t *testing.T) {
	p := newPropagation(t, "soakprop", "mary", (*soakLab).classic)
	p.measure("of the target's ingress", p.turns(1000), "target", soakRule{protocol: "tcp", port: 80, group: "prober"})
}

// TestSoakRuleChangeIsEnforcedInTimeInVPC is the same in a VPC: first for a rule of the target's ingress, which
// the target's node enforces, then for a rule of the prober's egress, which the prober's node enforces.
func TestSoakRuleChangeIsEnforcedInTimeInVPC(t *testing.T) {
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

// A propagation is a lab in which a prober sends SYNs to a target all the time.
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
	if others := l.others(p.a); len(others) > 0 { // put the target on a follower, and the prober on another follower if there is one
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

// turns returns how often to authorize and revoke a rule: many times, or a tenth of that with -short.
func (p *propagation) turns(many int) int {
	if testing.Short() {
		return many / 10
	}
	return many
}

// measure authorizes and revokes a rule of a group, turns times, and checks the latencies. No probe may arrive
// without that rule.
func (p *propagation) measure(what string, turns int, group string, rule soakRule) {
	p.t.Helper()
	p.measureChange(what, turns,
		func() (time.Time, error) { return p.api.authorize(group, rule) },
		func() (time.Time, error) { return p.api.revoke(group, rule) })
}

// measureChange is measure for any change: authorize and revoke call the API and return the time of the answer.
func (p *propagation) measureChange(what string, turns int, authorize, revoke func() (time.Time, error)) {
	t, s := p.t, p.s
	// A revoke counts as enforced when no probe has arrived for the time quiet, which is longer than the
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
	lost := 0 // probes that did not arrive although they were sent between the first arrival and the revoke
	for i := range turns {
		from := s.len()
		if at, ok := s.last(0); ok && time.Since(at) < quiet {
			t.Fatalf("before change %d, a probe was admitted only %v ago, want %v or more", 2*i, time.Since(at), quiet)
		}
		reply, err := authorize()
		if err != nil {
			t.Fatalf("change %d, authorize: %v", 2*i, err)
		}
		at, ok := s.first(from)
		for ; !ok; at, ok = s.first(from) {
			if <-tick.C; time.Since(reply) > giveUp {
				t.Fatalf("void: no probe arrived within %v of the authorize, change %d", giveUp, 2*i)
			}
		}
		opened = append(opened, max(0, at.Sub(reply)))
		// Vary the time from the authorize to the revoke.
		for settled := time.Now().Add(time.Duration(5+i*7%20) * time.Millisecond); time.Now().Before(settled); {
			<-tick.C
		}
		before := s.len()
		reply, err = revoke()
		if err != nil {
			t.Fatalf("change %d, revoke: %v", 2*i+1, err)
		}
		begun := time.Now()
		at, _ = s.last(from)
		for ; time.Since(begun) < quiet || time.Since(at) < quiet || s.len() < before+fewest; at, _ = s.last(from) {
			if <-tick.C; time.Since(reply) > giveUp {
				t.Fatalf("void: probes still arrived %v after the revoke, change %d, or too few were sent", giveUp, 2*i+1)
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
		t.Errorf("void: %.0f probes were sent a second, want 500 or more", rate)
	}
	if at := percentile(opened, 99); at > p.limit {
		t.Errorf("from authorize to enforcement: p99 %v, want at most %v", at, p.limit)
	}
	if at := percentile(closed, 99); at > p.limit {
		t.Errorf("from revoke to enforcement: p99 %v, want at most %v", at, p.limit)
	}
}
