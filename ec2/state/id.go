package state

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"palisade/ec2"
)

// Ids look random and never repeat. Each is its serial, sent through a permutation that
// the cluster's seed selects: a Feistel network, one to one whatever its round function
// is. There is no collision to look for and no list of dead ids to keep.

// classicID returns the 8 hex digits of an EC2-Classic id.
func (m *meta) classicID(prefix string, serial uint64) string {
	if serial >= 1<<32 {
		panic(fmt.Sprintf("state: serial %d does not fit an id of 8 digits", serial))
	}
	return fmt.Sprintf("%s-%08x", prefix, m.permute(prefix, serial, 16))
}

// longID returns 17 hex digits; the first is 0, as in all that EC2 has given out.
func (m *meta) longID(prefix string, serial uint64) string {
	return fmt.Sprintf("%s-0%016x", prefix, m.permute(prefix, serial, 32))
}

// mac is the unicast, locally administered address that goes with a private address of a
// network. An address keeps it through all its leases: its neighbours have it in their
// ARP caches for longer than it rests.
func (m *meta) mac(vni ec2.VNI, private netip.Addr) ec2.MAC {
	four := private.As4()
	mac := ec2.MAC{0x02, byte(vni%255) + 1} // 02:00 is the gateway's
	binary.BigEndian.PutUint32(mac[2:], uint32(m.permute("mac", uint64(binary.BigEndian.Uint32(four[:])), 16)))
	return mac
}

// permute maps a number of 2*half bits to another.
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
