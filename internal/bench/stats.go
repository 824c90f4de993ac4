package bench

import (
	"math"
	"slices"
)

// median of values, which it does not change; NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// interval is a confidence interval of 95 % or more for the median of what values are
// drawn from, whatever the distribution: the k-th smallest and the k-th largest of them,
// by the sign test. Fewer than six values have none.
func interval(values []float64) (low, high float64, ok bool) {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	k, tail, term := 0, 0.0, math.Pow(0.5, float64(n))
	for ; k < n/2; k++ {
		// tail is the chance that at most k of n values are below the median.
		tail += term
		if tail > 0.025 {
			break
		}
		term *= float64(n-k) / float64(k+1)
	}
	if k == 0 {
		return math.NaN(), math.NaN(), false
	}
	return sorted[k-1], sorted[n-k], true
}
