package bench

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestMedianOfOddAndEvenCounts(t *testing.T) {
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
		t.Error("the median of no values is a number, want NaN")
	}
}

// left is how many values lie below the interval, and as many above it, from a table of the
// sign test.
func TestIntervalFollowsTheSignTest(t *testing.T) {
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
			t.Errorf("interval of %d values: got %v to %v, ok %v; want %d values left out at each end, ok %v", tc.n, low, high, ok, tc.left, tc.ok)
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

func TestCompareReturnsRatioOfMediansAndInterval(t *testing.T) {
	for _, tc := range []struct {
		name             string
		of, to           map[int]float64
		value, low, high float64
		pairs            int
	}{
		{"the ratio of two medians", series(2, 4, 9), series(1, 1, 3), 4, 0, 0, 3},
		{"the interval of six pairs contains all", series(2, 4, 6, 8, 10, 12), series(1, 2, 3, 4, 5, 6), 2, 2, 2, 6},
		// The machine is half as fast in every other minute: both series are affected alike.
		{"slow minutes affect both", series(10, 5, 10, 5, 10, 5), series(10, 5, 10, 5, 10, 5), 1, 1, 1, 6},
		{"seven pairs with an outlier", series(1, 1, 1, 1, 1, 1, 100), series(1, 1, 1, 1, 1, 1, 1), 1, 1, 100, 7},
		{"the interval of nine pairs leaves an outlier out", series(1, 1, 1, 1, 1, 1, 1, 1, 100), series(1, 1, 1, 1, 1, 1, 1, 1, 1), 1, 1, 1, 9},
		{"a repetition that one series lacks", map[int]float64{0: 3, 1: 100, 2: 5}, map[int]float64{0: 1, 2: 1}, 4, 0, 0, 2},
	} {
		got := compare(tc.of, tc.to)
		if got.Value != tc.value || got.Low != tc.low || got.High != tc.high || got.Pairs != tc.pairs {
			t.Errorf("%s: got %+v, want %v [%v, %v] of %d pairs", tc.name, got, tc.value, tc.low, tc.high, tc.pairs)
		}
	}
	if none := compare(series(1, 2), nil); none.Pairs != 0 || !math.IsNaN(none.Value) {
		t.Errorf("compared with an empty series: got %+v, want NaN of 0 pairs", none)
	}
}

// At most 5 % of the intervals may miss the median of the distribution.
func TestIntervalContainsTheMedian(t *testing.T) {
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
				t.Errorf("%s: intervals of %d values miss the median in %.3f of draws, want at most 0.055", tc.name, n, part)
			}
		}
	}
}

// The simulated path loses frames above its rate, and in every other trial below it.
func TestSearchFindsTheRateWithoutLoss(t *testing.T) {
	for _, tc := range []struct {
		name             string
		limit, sustained float64
		sender           float64 // the highest rate of the sender
		want, within     float64
	}{
		{"rate in the middle", 1000, 300, 1e9, 300, 16},
		{"rate above the limit", 1000, 2000, 1e9, 1000, 16},
		{"rate of a slow sender", 1000, 2000, 500, 500, 1},
		{"rate near 0", 1000, 1, 1e9, 0, 10},
	} {
		flips := 0
		best, trials, err := search(tc.limit, func(rate float64) (trial, error) {
			rate = min(rate, tc.sender)
			if rate > tc.sustained {
				return trial{rate: rate, lost: 1}, nil
			}
			if flips++; flips%2 == 1 { // every other trial loses a frame
				return trial{rate: rate, lost: 1}, nil
			}
			return trial{rate: rate}, nil
		})
		if err != nil || math.Abs(best-tc.want) > tc.within || trials > 2*searchSteps {
			t.Errorf("%s: got rate %v after %d trials, %v; want rate %v", tc.name, best, trials, err, tc.want)
		}
	}
}
