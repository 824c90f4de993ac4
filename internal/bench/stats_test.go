package bench

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("median of %v is %v, want %v", tc.values, got, tc.want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("nothing has a median")
	}
}

// The sign test's table: how many of the smallest and largest values the interval leaves out.
func TestIntervalLeavesOutWhatTheSignTestAllows(t *testing.T) {
	for _, tc := range []struct {
		n, left int
		ok      bool
	}{
		{1, 0, false}, {5, 0, false}, {6, 0, true}, {8, 0, true}, {9, 1, true}, {10, 1, true}, {12, 2, true}, {20, 5, true},
	} {
		values := make([]float64, tc.n)
		for i, at := range rand.New(rand.NewPCG(1, 2)).Perm(tc.n) {
			values[at] = float64(i)
		}
		low, high, ok := interval(values)
		if ok != tc.ok || ok && (low != float64(tc.left) || high != float64(tc.n-1-tc.left)) {
			t.Errorf("of %d values: %v to %v, %v; want %d left out at each end, %v", tc.n, low, high, ok, tc.left, tc.ok)
		}
	}
}

func series(values ...float64) map[int]float64 {
	all := map[int]float64{}
	for i, v := range values {
		all[i] = v
	}
	return all
}

func TestCompare(t *testing.T) {
	for _, tc := range []struct {
		name             string
		of, to           map[int]float64
		value, low, high float64
		pairs            int
	}{
		{"the ratio is that of the medians", series(2, 4, 9), series(1, 1, 3), 4, 0, 0, 3},
		{"six pairs have the interval of all", series(2, 4, 6, 8, 10, 12), series(1, 2, 3, 4, 5, 6), 2, 2, 2, 6},
		// The halves of two minutes, one half as fast: medians say 1, and so do pairs.
		{"slow minutes fall on both", series(10, 5, 10, 5, 10, 5), series(10, 5, 10, 5, 10, 5), 1, 1, 1, 6},
		{"an outlier is bounded by the interval", series(1, 1, 1, 1, 1, 1, 100), series(1, 1, 1, 1, 1, 1, 1), 1, 1, 100, 7},
		{"nine leave an outlier out", series(1, 1, 1, 1, 1, 1, 1, 1, 100), series(1, 1, 1, 1, 1, 1, 1, 1, 1), 1, 1, 1, 9},
		{"what one lacks is left out of both", map[int]float64{0: 3, 1: 100, 2: 5}, map[int]float64{0: 1, 2: 1}, 4, 0, 0, 2},
	} {
		got := compare(tc.of, tc.to)
		if got.Value != tc.value || got.Low != tc.low || got.High != tc.high || got.Pairs != tc.pairs {
			t.Errorf("%s: %+v, want %v [%v, %v] of %d", tc.name, got, tc.value, tc.low, tc.high, tc.pairs)
		}
	}
	if none := compare(series(1, 2), nil); none.Pairs != 0 || !math.IsNaN(none.Value) {
		t.Errorf("with nobody: %+v", none)
	}
}

// The interval is for the median of what values are drawn from: of a thousand draws of it
// not more than 5 % may miss, whatever the distribution.
func TestIntervalCoversTheMedian(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, tc := range []struct {
		name string
		draw func() float64
		want float64
	}{
		{"uniform", random.Float64, 0.5},
		{"exponential", random.ExpFloat64, math.Ln2},
		{"two modes", func() float64 { return math.Round(random.Float64()-0.2)*30 + random.Float64() }, 0.714},
	} {
		for _, n := range []int{6, 7, 9, 15} {
			missed := 0
			for range 4000 {
				values := make([]float64, n)
				for i := range values {
					values[i] = tc.draw()
				}
				if low, high, _ := interval(values); tc.want < low || tc.want > high {
					missed++
				}
			}
			if part := float64(missed) / 4000; part > 0.055 { // chance adds 0.003
				t.Errorf("%s: %d values miss the median in %.3f of draws", tc.name, n, part)
			}
		}
	}
}

// A path with a limit of its own loses above it, and, now and then, below.
func TestSearchFindsTheRateWithoutLoss(t *testing.T) {
	for _, tc := range []struct {
		name             string
		limit, sustained float64
		sender           float64 // what the sender can do
		want, within     float64
	}{
		{"in the middle", 1000, 300, 1e9, 300, 16},
		{"at the top", 1000, 2000, 1e9, 1000, 16},
		{"a slow sender finds what it can send", 1000, 2000, 500, 500, 1},
		{"less than the search can tell from none", 1000, 1, 1e9, 0, 10},
	} {
		flips := 0
		best, trials, err := search(tc.limit, func(rate float64) (trial, error) {
			rate = min(rate, tc.sender)
			if rate > tc.sustained {
				return trial{rate: rate, lost: 1}, nil
			}
			if flips++; flips%2 == 1 { // every other trial has bad luck
				return trial{rate: rate, lost: 1}, nil
			}
			return trial{rate: rate}, nil
		})
		if err != nil || math.Abs(best-tc.want) > tc.within || trials > 2*searchSteps {
			t.Errorf("%s: %v in %d trials, %v; want %v", tc.name, best, trials, err, tc.want)
		}
	}
}
