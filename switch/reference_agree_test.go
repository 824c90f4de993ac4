package vswitch

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"palisade/conntrack"
)

var refSeed = flag.Uint64("reference.seed", 0, "play the random packets of this seed only")

const refSteps = 20_000 // of one seed

// TestConnectionsAgreeWithASlowTracker: millions of random packets, between interfaces whose rules
// change, get the same verdict from the switch and from a slow and obvious tracker.
func TestConnectionsAgreeWithASlowTracker(t *testing.T) {
	var delivered atomic.Int64
	if *refSeed != 0 {
		agree(t, *refSeed)
		return
	}
	t.Run("seeds", func(t *testing.T) {
		for worker := range uint64(2) {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for seed := worker + 1; seed <= refSeeds && !t.Failed(); seed += 2 {
					delivered.Add(int64(agree(t, seed)))
				}
			})
		}
	})
	if n := delivered.Load(); !t.Failed() && n < refSeeds*refSteps/8 {
		t.Errorf("only %d of %d packets were delivered, so the test shows little", n, refSeeds*refSteps)
	}
	t.Logf("%d of %d packets were delivered", delivered.Load(), refSeeds*refSteps)
}

func refConfig() conntrack.Config {
	return conntrack.Config{Capacity: 4096, Untracked: 1024, Reserve: 256}
}

// A quietTB cleans up when its method close is called, and does not report the state of a switch.
type quietTB struct {
	testing.TB
	cleanups []func()
}

func (q *quietTB) Cleanup(f func()) { q.cleanups = append(q.cleanups, f) }

func (q *quietTB) Failed() bool { return false }

func (q *quietTB) close() {
	for _, f := range slices.Backward(q.cleanups) {
		f()
	}
}

// agree plays the steps of one seed, and returns how many packets were delivered. If the switch and the reference disagree, it prints the
// smallest part of the steps after which they do.
func agree(t *testing.T, seed uint64) (delivered int) {
	t.Helper()
	quiet := &quietTB{TB: t}
	defer quiet.close()
	b, source := newRefBed(quiet, refConfig(), seed%3 == 0), newRefSource(seed)
	var steps []*refStep
	for range refSteps {
		s, learn := source.step()
		steps = append(steps, s)
		at, difference := b.step(s)
		if difference != "" {
			few, difference := shrink(t, steps, seed%3 == 0)
			var all []string
			for _, s := range few {
				all = append(all, s.String())
			}
			t.Fatalf("seed %d, step %d: %s\nthe same after these %d steps (strict: %v), with other numbers perhaps:\n%s",
				seed, len(steps), difference, len(few), seed%3 == 0, strings.Join(all[max(0, len(all)-80):], "\n"))
		}
		if at != "" {
			delivered++
			learn()
		}
	}
	return delivered
}

// shrink leaves out steps as long as the switch and the reference still disagree.
func shrink(t *testing.T, steps []*refStep, strict bool) ([]*refStep, string) {
	last := ""
	differ := func(steps []*refStep) bool {
		quiet := &quietTB{TB: t}
		defer quiet.close()
		b := newRefBed(quiet, refConfig(), strict)
		b.verbose = true
		for _, s := range steps {
			if _, difference := b.step(s); difference != "" {
				last = difference
				return true
			}
		}
		return false
	}
	for size, end := len(steps)/2, time.Now().Add(20*time.Second); size > 0; size /= 2 {
		for at := len(steps) - size; at >= 0 && time.Now().Before(end); at -= size {
			without := append(append([]*refStep{}, steps[:at]...), steps[at+size:]...)
			// The time that the left-out steps took still passes.
			for _, s := range steps[at : at+size] {
				if at < len(without) {
					next := *without[at]
					next.after += s.after
					without[at] = &next
				}
			}
			if differ(without) {
				steps = without
			}
			at = min(at, len(steps))
		}
	}
	return steps, last
}
