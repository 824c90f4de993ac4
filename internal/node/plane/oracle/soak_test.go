//go:build soak

package oracle

const worldsPlayed = 1000

const (
	flatBatches  = 3000
	flatRatio    = 1.0
	flatLists    = 100
	flatListed   = 1000
	flatPeerings = 100
)
