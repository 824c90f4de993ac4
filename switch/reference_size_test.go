//go:build !soak

package vswitch

const refSeeds = 250 // 5 million packets

const nftPackets = 1_000_000
