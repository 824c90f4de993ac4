package bench

import (
	"math"
	"slices"
)

// median returns the median of values, or NaN if there are none. It does not change values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// interval returns a confidence interval of at least 95 % for the median of the distribution
// that values are drawn from. It holds for every distribution: it is the k-th smallest and
// the k-th largest value, by the sign test. It needs six values or more.
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

// A Ratio compares two contestants of a phase by a measure.
type Ratio struct {
	Phase   string `json:"phase"`
	Measure string `json:"measure"`
	Of      string `json:"of"`
	To      string `json:"to"`
	// Value is the ratio of the two medians.
	Value float64 `json:"value"`
	// Low and High are the 95 % interval of the median of the ratios within a repetition;
	// both are 0 if there are too few. A slow minute of the machine affects both values of
	// a pair, so this interval can be narrower than those of the two medians.
	Low   float64 `json:"low,omitempty"`
	High  float64 `json:"high,omitempty"`
	Pairs int     `json:"pairs"`
}

// compare returns the ratio of two series of values by repetition. A repetition that is
// missing in one series is left out of both.
func compare(of, to map[int]float64) Ratio {
	var above, below, ratios []float64
	for repetition, value := range of {
		if other, ok := to[repetition]; ok {
			above, below, ratios = append(above, value), append(below, other), append(ratios, value/other)
		}
	}
	r := Ratio{Value: median(above) / median(below), Pairs: len(ratios)}
	if low, high, ok := interval(ratios); ok {
		r.Low, r.High = low, high
	}
	return r
}
