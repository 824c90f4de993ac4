package state

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"palisade/ec2"
)

// Ids look random and never repeat. An id is a serial, permuted by a Feistel network that the
// seed of the cluster selects. Such a network maps numbers one to one, so no two serials have the
// same id, and no list of used ids is needed.

// classicID returns an EC2-Classic id, which has 8 hex digits.
func (m *meta) classicID(prefix string, serial uint64) string {
	if serial >= 1<<32 {
		panic(fmt.Sprintf("state: serial %d does not fit an id of 8 digits", serial))
	}
	return fmt.Sprintf("%s-%08x", prefix, m.permute(prefix, serial, 16))
}

// longID returns an id with 17 hex digits. The first is 0, as in all ids of EC2.
func (m *meta) longID(prefix string, serial uint64) string {
	return fmt.Sprintf("%s-0%016x", prefix, m.permute(prefix, serial, 32))
}

// mac returns the MAC of the interface that has a private address. It is unicast and locally
// administered. All leases of an address have the same MAC, because the ARP caches of neighbours
// keep an entry for longer than the quarantine lasts.
func (m *meta) mac(vni ec2.VNI, private netip.Addr) ec2.MAC {
	four := private.As4()
	mac := ec2.MAC{0x02, byte(vni%255) + 1} // MACs of gateways begin with 02:00
	binary.BigEndian.PutUint32(mac[2:], uint32(m.permute("mac", uint64(binary.BigEndian.Uint32(four[:])), 16)))
	return mac
}

// permute returns the number of 2*half bits that n is mapped to. No two numbers of a kind are
// mapped to the same one.
func (m *meta) permute(kind string, n uint64, half uint) uint64 {
	mask := uint64(1)<<half - 1
	left, right := n>>half&mask, n&mask
	for round := range rounds {
		left, right = right, left^m.mix(kind, round, right, half)
	}
	return left<<half | right
}

const rounds = uint64(4) // of the Feistel network

// mix returns half bits that one round of permute changes the other half of a number by.
func (m *meta) mix(kind string, round, n uint64, half uint) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d/%d", m.Seed, kind, round, n))
	return binary.BigEndian.Uint64(sum[:]) & (1<<half - 1)
}

// serialOf returns the serial that longID made an id of; false if no such serial was assigned.
func (m *meta) serialOf(prefix, id string) (uint64, bool) {
	digits, ok := strings.CutPrefix(id, prefix+"-0")
	n, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil || len(digits) != 16 {
		return 0, false
	}
	const half = 32
	left, right := n>>half, n&(1<<half-1)
	for round := rounds; round > 0; round-- {
		left, right = right^m.mix(prefix, round-1, left, half), left
	}
	n = left<<half | right
	return n, n <= m.Serial
}
