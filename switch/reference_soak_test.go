//go:build soak

package vswitch

const refSeeds = 5000 // 100 million packets

const nftPackets = 5_000_000
