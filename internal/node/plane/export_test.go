package plane

import "palisade/ec2"

// LostAt is the generation at which an address of a network last left a group.
func (p *Plane) LostAt(network ec2.VNI) uint64 { return p.lost[network] }

// Endpoints is how many leases the plane remembers.
func (p *Plane) Endpoints() int { return len(p.endpoints) }
