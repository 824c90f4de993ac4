package conntrack_test

import (
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/packet"
)

// BenchmarkLookupAmongMillionConnections looks connections up in random order, so that no memory of
// theirs is in a cache: one packet at a time, and in batches of 64 as a poller does, which waits for
// the memory of all 64 at once. p50 and p99 include the cost of the clock.
func BenchmarkLookupAmongMillionConnections(b *testing.B) {
	_, _, z := openMillion(b)
	b.Run("one at a time", func(b *testing.B) { lookUp(b, z, false) })
	b.Run("in batches", func(b *testing.B) { lookUp(b, z, true) })
}

func lookUp(b *testing.B, z *conntrack.Zone, batched bool) {
	const batch = 64
	flows := make([]packet.Flow, batch)
	tuples, places := make([]conntrack.Tuple, batch), make([]conntrack.Place, batch)
	p := millionth(0, packet.ACK)
	r := rand.New(rand.NewPCG(1, 2))
	began := time.Now()
	took := make([]time.Duration, 0, b.N+batch)
	for len(took) < b.N {
		for i := range flows {
			flows[i] = millionth(r.IntN(million), 0).Flow
		}
		clear(tuples)
		share := time.Duration(0)
		if batched {
			before := time.Since(began)
			for i := range flows {
				z.IdentifyFlow(&tuples[i], flows[i])
				places[i] = z.Seek(&tuples[i])
			}
			for i := range places {
				places[i].Fetch()
			}
			share = (time.Since(began) - before) / batch
		}
		for i, f := range flows {
			before := time.Since(began)
			p.Flow = f
			z.Identify(&tuples[i], p)
			a := z.Observe(p, &tuples[i], conntrack.In, time.Second, rules)
			took = append(took, share+time.Since(began)-before)
			if a.Status != conntrack.Live {
				b.Fatalf("%v has status %v, want %v", f, a.Status, conntrack.Live)
			}
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}

// BenchmarkGCPauseWithMillionConnections collects garbage while connections are looked up. The table
// has no pointers, so the collector does not read it.
func BenchmarkGCPauseWithMillionConnections(b *testing.B) {
	_, _, z := openMillion(b)
	pauses := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(pauses)
	before := slices.Clone(pauses[0].Value.Float64Histogram().Counts)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		var kept [][]byte
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			observe(z, millionth(n%million, packet.ACK), time.Second, rules) // the packet is garbage
			if kept = append(kept, make([]byte, 512)); len(kept) > 100_000 {
				kept = nil
			}
		}
	}()
	for b.Loop() {
		runtime.GC()
	}
	close(stop)
	<-done
	metrics.Read(pauses)
	h := pauses[0].Value.Float64Histogram()
	count, longest := uint64(0), 0.0
	for i := range h.Counts {
		if n := h.Counts[i] - before[i]; n > 0 {
			count, longest = count+n, h.Buckets[i+1]
		}
	}
	b.ReportMetric(longest*1e6, "longest-pause-us")
	b.ReportMetric(float64(count), "pauses")
}
