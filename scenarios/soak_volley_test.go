//go:build soak

package scenarios

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"palisade/internal/lab"
)

// A volley is a sequence of probes between pairs of instances, by turns an allowed and a forbidden pair. The
// mutex guards the lists; shoot holds it while it sends a probe.
type volley struct {
	pairs []pair
	wrong atomic.Int64 // number of forbidden probes that arrived

	mu      sync.Mutex
	sent    []time.Time // index: the probe's number; its pair is pairs[number % len(pairs)]
	arrived []bool
	changed *sync.Cond // signals that sent has grown
}

type pair struct {
	prober  *prober
	to      netip.AddrPort
	allowed bool
}

// newVolley returns a volley between two nodes, in both directions. In each direction there is an allowed pair,
// from friend to target, and a forbidden pair, from foe to target.
func newVolley(t *testing.T, placed map[string]map[string]lab.InstanceStatus, nodes []string, port uint16) *volley {
	v := &volley{}
	v.changed = sync.NewCond(&v.mu)
	for i, node := range nodes {
		target := placed["target"][nodes[1-i]]
		to := netip.AddrPortFrom(netip.MustParseAddr(target.PrivateAddress), port)
		v.pairs = append(v.pairs,
			pair{proberAt(t, placed["friend"][node]), to, true},
			pair{proberAt(t, placed["foe"][node]), to, false})
		watch(t, target, port, v.seen)
	}
	return v
}

// seen records that a probe arrived, or counts it as wrong if its sender is forbidden to reach the target.
func (v *volley) seen(a arrival) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range v.pairs {
		if p.prober.from == a.from && !p.allowed {
			v.wrong.Add(1)
			return
		}
	}
	if int(a.number) < len(v.arrived) {
		v.arrived[a.number] = true
	}
}

// shoot sends the next probe. It holds the mutex while it sends, because the probe must be in the list before
// seen records its arrival.
func (v *volley) shoot() {
	v.mu.Lock()
	defer v.mu.Unlock()
	number := len(v.sent)
	v.sent, v.arrived = append(v.sent, time.Now()), append(v.arrived, false)
	p := v.pairs[number%len(v.pairs)]
	_ = p.prober.datagram(p.to, uint32(number)) // a probe that is not sent counts as lost
	v.changed.Broadcast()
}

// try reports whether all allowed probes that the last call of try sent have arrived. It clears the lists. If
// it returns false, it has sent a probe for every pair again.
func (v *volley) try() bool {
	v.mu.Lock()
	whole := len(v.sent) > 0
	for i := range v.arrived {
		whole = whole && (v.arrived[i] || !v.pairs[i%len(v.pairs)].allowed)
	}
	v.sent, v.arrived = nil, nil
	v.mu.Unlock()
	if !whole {
		for range v.pairs {
			v.shoot()
		}
	}
	return whole
}

// runProbes sends count probes, one every interval. It ends early if ctx ends.
func (v *volley) runProbes(ctx context.Context, count int, interval time.Duration) {
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	pace(ctx, interval, func() {
		if v.shoot(); count == 1 {
			enough()
		}
		count--
	})
}

// waitFor waits until count probes have been sent.
func (v *volley) waitFor(count int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.sent) < count {
		v.changed.Wait()
	}
}

// lost returns, for each allowed probe that did not arrive, the time at which it was sent.
func (v *volley) lost() []time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	var lost []time.Time
	for i, at := range v.sent {
		if v.pairs[i%len(v.pairs)].allowed && !v.arrived[i] {
			lost = append(lost, at)
		}
	}
	return lost
}

func countBetween(list []time.Time, from, to time.Time) (n int) {
	for _, at := range list {
		if at.After(from) && at.Before(to) {
			n++
		}
	}
	return n
}
