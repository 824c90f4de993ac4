//go:build soak

package oracle

const worldsPlayed = 1000
