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
