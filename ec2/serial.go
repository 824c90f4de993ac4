package ec2

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Ids look random and never repeat. Each is its serial, sent through a permutation that
// the cluster's seed selects: a Feistel network, one to one whatever its round function
// is. There is no collision to look for and no list of dead ids to keep.

// classicID returns the 8 hex digits of an EC2-Classic id.
func (m *meta) classicID(prefix string, serial uint64) string {
	if serial >= 1<<32 {
		panic(fmt.Sprintf("ec2: serial %d does not fit an id of 8 digits", serial))
	}
	return fmt.Sprintf("%s-%08x", prefix, m.permute(prefix, serial, 16))
}

// longID returns 17 hex digits; the first is 0, as in all that EC2 has given out.
func (m *meta) longID(prefix string, serial uint64) string {
	return fmt.Sprintf("%s-0%016x", prefix, m.permute(prefix, serial, 32))
}

// mac returns a unicast, locally administered address.
func (m *meta) mac(serial uint64) MAC {
	mac := MAC{0x02, byte(serial >> 32)}
	binary.BigEndian.PutUint32(mac[2:], uint32(m.permute("mac", serial&(1<<32-1), 16)))
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
