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
