//go:build !soak

package oracle

const worldsPlayed = 6

const (
	flatBatches  = 200
	flatRatio    = 1.1
	flatLists    = 5
	flatListed   = 100
	flatPeerings = 10
)
