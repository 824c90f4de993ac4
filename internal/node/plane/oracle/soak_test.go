//go:build soak

package oracle

const worldsPlayed = 1000

const (
	flatBatches = 3000
	flatRatio   = 1.0
)
