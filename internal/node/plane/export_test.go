package plane

import "palisade/ec2"

// LostAt returns the generation at which an address of a network last left a group.
func (p *Plane) LostAt(network ec2.VNI) uint64 { return p.lost[network] }

// Leases returns how many leases the plane holds.
func (p *Plane) Leases() int { return len(p.leases) }
