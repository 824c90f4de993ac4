package state

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

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
	for round := range uint64(4) {
		in := fmt.Appendf(nil, "%s/%s/%d/%d", m.Seed, kind, round, right)
		sum := sha256.Sum256(in)
		left, right = right, left^(binary.BigEndian.Uint64(sum[:])&mask)
	}
	return left<<half | right
}
