//go:build !soak

package clients

import (
	"math/rand/v2"
	"testing"
)

// payloadSizes returns the sizes that one flow sends.
func payloadSizes() []int { return nearMTUs(rand.New(rand.NewPCG(13, 1)), 20) }

// iperf3 does nothing: it runs with the tag soak.
func iperf3(*testing.T, *end, *end) {}

// nearMTUs returns payload sizes around every MTU that an end, a tunnel or an uplink has, and some at random.
func nearMTUs(r *rand.Rand, others int) (sizes []int) {
	for _, mtu := range []int{68, 576, 1280, 1400, 1406, 1500, 2972, 9000} {
		for size := mtu - 38; size <= mtu-18; size++ {
			sizes = append(sizes, max(size, 1))
		}
	}
	for range others {
		sizes = append(sizes, 1+r.IntN(9000))
	}
	return sizes
}
