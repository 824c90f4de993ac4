//go:build soak

package scenarios

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// TestSoakPropagation measures how long after the API's reply a change is enforced on
// another node:
//
//	API call ---> front door ---> a node ... the others
//	prober (node B) --SYN every 0.7 ms--> target (node A), where they are counted
//
// A rule of the target's group is authorized and revoked in turn. After an authorize,
// the latency is that of the first SYN that came through, by the time it was sent; after a
// revoke, that of the last. One process sends, counts and calls, by one monotonic clock.
func TestSoakPropagation(t *testing.T) {
	const changes = 2000
	limit, goal := 50*time.Millisecond, 25*time.Millisecond
	if soakNodes(t) > 3 {
		limit, goal = 100*time.Millisecond, 30*time.Millisecond
	}
	// Nothing that comes through within quiet of the last that did is overlooked; it is
	// long enough to see the limit exceeded.
	quiet := 3 * limit
	const (
		fewest = 100 // probes that must be sent before a revoke counts as seen
		giveUp = 5 * time.Second
	)

	l := newSoakLab(t, "soakprop")
	api := l.api("mary")
	l.groups(api, "target", "prober")
	a := l.leader()
	b := a
	if others := l.others(a); len(others) > 0 { // the target on a follower, the prober on another if there is one
		a = others[0]
		b = others[len(others)-1]
		if a == b {
			b = l.leader()
		}
	}
	target := l.launchIn(api, []string{a}, "target")["target"][a]
	prober := l.launchIn(api, []string{b}, "prober")["prober"][b]

	s := &series{gun: gunAt(t, prober), to: netip.AddrPortFrom(netip.MustParseAddr(target.PrivateAddress), 80)}
	watch(t, target, 80, s.seen)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	begin := time.Now()
	wg.Go(func() { s.runSYNs(ctx, 700*time.Microsecond) })

	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	rule := soakRule{protocol: "tcp", port: 80, group: "prober"}
	var opened, closed []time.Duration
	lost := 0 // probes that were refused between the first admitted and the revoke
	for i := range changes / 2 {
		from := s.len()
		if at, ok := s.last(0); ok && time.Since(at) < quiet {
			t.Fatalf("change %d: the last admitted probe is only %v old", 2*i, time.Since(at))
		}
		reply, err := api.authorize("target", rule)
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
		// Revokes come at no fixed time behind authorizes.
		for settled := time.Now().Add(time.Duration(5+i*7%20) * time.Millisecond); time.Now().Before(settled); {
			<-tick.C
		}
		before := s.len()
		reply, err = api.revoke("target", rule)
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
	stop()
	wg.Wait()

	rate := float64(s.len()) / time.Since(begin).Seconds()
	gaps := s.gaps()
	t.Logf("propagation, %d nodes, %d changes, target on %s, prober on %s: authorize p50 %s p99 %s max %s ms; revoke p50 %s p99 %s max %s ms; "+
		"%.0f probes/s, gap p99 %s max %s ms, %d not sent, %d refused while open; goal p99 %s ms, limit %s ms",
		len(l.nodes), len(opened)+len(closed), a, b,
		ms(percentile(opened, 50)), ms(percentile(opened, 99)), ms(percentile(opened, 100)),
		ms(percentile(closed, 50)), ms(percentile(closed, 99)), ms(percentile(closed, 100)),
		rate, ms(percentile(gaps, 99)), ms(percentile(gaps, 100)), s.errors, lost, ms(goal), ms(limit))
	if rate < 500 {
		t.Errorf("void: %.0f probes a second", rate)
	}
	if p := percentile(opened, 99); p > limit {
		t.Errorf("authorize to enforced: p99 %v, at most %v", p, limit)
	}
	if p := percentile(closed, 99); p > limit {
		t.Errorf("revoke to enforced: p99 %v, at most %v", p, limit)
	}
}
