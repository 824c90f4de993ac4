package oracle

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"palisade/internal/verdict"
)

var onlySeed = flag.Uint64("oracle.seed", 0, "play the world of this seed only")

// packetsPerWorld is below the number of connections that one interface may have.
const packetsPerWorld = 2000

// TestVPCsDecideAsTheOracleDoes: random packets through random VPCs, on two nodes, get what the oracle says,
// with random changes in between.
func TestVPCsDecideAsTheOracleDoes(t *testing.T) {
	if *onlySeed != 0 {
		play(t, rand.New(rand.NewPCG(*onlySeed, 0)), packetsPerWorld)
		return
	}
	sum := &tally{done: map[string]int{}, refused: map[string]int{}}
	t.Run("worlds", func(t *testing.T) {
		for worker := range uint64(2) {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for seed := worker + 1; seed <= worldsPlayed && !t.Failed(); seed += 2 {
					t.Logf("seed %d", seed)
					got := play(t, rand.New(rand.NewPCG(seed, 0)), packetsPerWorld)
					sum.add(got)
				}
			})
		}
	})
	t.Logf("%d packets: %d delivered, of them %d to the other node and %d answers; %d changes",
		sum.packets.Load(), sum.delivered.Load(), sum.across.Load(), sum.answers.Load(), sum.changes.Load())
	if n := sum.packets.Load(); !t.Failed() && (sum.delivered.Load() < n/8 || sum.across.Load() < n/50 || sum.answers.Load() < n/50) {
		t.Errorf("of %d packets %d were delivered, %d to the other node and %d answers, so the test shows little", n, sum.delivered.Load(), sum.across.Load(), sum.answers.Load())
	}
	for k := local; k < kinds; k++ {
		t.Logf("%d delivered by routes of kind %d", sum.by[k].Load(), k)
		if !t.Failed() && sum.by[k].Load() == 0 {
			t.Errorf("no packet was delivered by routes of kind %d, so the test shows nothing about them", k)
		}
	}
	t.Logf("requests carried out: %v; refused: %v", sum.done, sum.refused)
	for name := range sum.refused {
		if worldsPlayed >= 100 && sum.done[name] == 0 {
			t.Errorf("EC2 has refused every request %s, so the test shows nothing about it", name)
		}
	}
	for v := range sum.reasons {
		if v := verdict.Verdict(v); !t.Failed() && slices.Contains(compared, v) && sum.reasons[v].Load() == 0 {
			t.Errorf("no packet was dropped as %v, so the test shows nothing about it", v)
		}
	}
}

// compared are the verdicts that the oracle gives reasons for.
var compared = []verdict.Verdict{verdict.SpoofedIP, verdict.NoRule, verdict.ACLDenied, verdict.NotRouted, verdict.NoRoute, verdict.GatewayLocal, verdict.BadSource}

// A tally counts what happened in worlds.
type tally struct {
	packets, delivered, across, answers, changes atomic.Int64
	reasons                                      [verdict.Count]atomic.Int64
	by                                           [kinds]atomic.Int64 // delivered, by where a route led

	mu            sync.Mutex
	done, refused map[string]int // requests, by type
}

func (s *tally) add(o *tally) {
	s.packets.Add(o.packets.Load())
	s.delivered.Add(o.delivered.Load())
	s.across.Add(o.across.Load())
	s.answers.Add(o.answers.Load())
	s.changes.Add(o.changes.Load())
	for k := range s.by {
		s.by[k].Add(o.by[k].Load())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range o.done {
		s.done[name] += n
	}
	for name, n := range o.refused {
		s.refused[name] += n
	}
	for v := range s.reasons {
		s.reasons[v].Add(o.reasons[v].Load())
	}
}

// play makes a world, and sends packets and makes changes in it. The method play fails the test at the first packet that
// gets something other than the oracle says.
func play(t testing.TB, r *rand.Rand, packets int) *tally {
	t.Helper()
	w := newWorld(t, r)
	defer w.close()
	return w.play(packets)
}

func (w *world) play(packets int) *tally {
	w.Helper()
	s := &tally{done: w.done, refused: w.refused}
	for int(s.packets.Load()) < packets {
		if w.r.IntN(30) == 0 {
			w.change()
			s.changes.Add(1)
		}
		p := w.random()
		f, ok := w.compare(p, s)
		if !ok || w.r.IntN(2) == 0 {
			continue
		}
		at := w.view.Index()
		opens := w.opensConnection(p)
		if w.r.IntN(8) == 0 {
			w.change()
			s.changes.Add(1)
		}
		if q := w.answer(p, f); q != nil {
			q.current = opens && w.changed <= at
			if _, ok := w.compare(q, s); ok {
				s.answers.Add(1)
			}
		}
	}
	return s
}

// compare sends a packet and compares its fate with the oracle's. It reports whether it was delivered.
func (w *world) compare(p *probe, s *tally) (*fate, bool) {
	w.Helper()
	f := judge(w.view, p)
	o := w.send(p)
	s.packets.Add(1)
	if len(o.delivered) == 0 && len(o.dropped) == 1 {
		reasons := f.reasons
		if !f.sure {
			reasons = append(slices.Clone(reasons), verdict.NoRule, verdict.Revoked)
		}
		if slices.Contains(reasons, o.dropped[0]) {
			s.reasons[o.dropped[0]].Add(1)
			return f, false
		}
	}
	if len(f.reasons) == 0 && len(o.dropped) == 0 && slices.Equal(o.delivered, []string{w.want(p, f)}) {
		s.delivered.Add(1)
		s.by[f.by].Add(1)
		if f.to != nil && f.to.Node != p.node {
			s.across.Add(1)
		}
		return f, true
	}
	w.Fatalf("packet %d: %v\nis delivered at %v and dropped as %v\nthe oracle says: %v\n%s", s.packets.Load(), p, o.delivered, o.dropped, f, w.view)
	return nil, false
}
