package plane

import (
	"palisade/conntrack"
	"palisade/ec2"
)

// LostAt returns the generation at which an address of a network last left a group.
func (p *Plane) LostAt(network ec2.VNI) uint64 { return p.lost[network] }

// Leases returns how many leases the plane holds.
func (p *Plane) Leases() int { return len(p.leases) }

// Zone returns the zone of a lease's port.
func (p *Plane) Zone(epoch uint64) *conntrack.Zone { return p.leases[epoch].zone }

// Records returns how many addresses have a stored owner; -1 if owners are unknown.
func (o *Owners) Records() int {
	if o.stored == nil {
		return -1
	}
	return len(o.stored)
}

// RewriteOwnersAt sets the size at which the file of owners is written anew.
func (p *Plane) RewriteOwnersAt(size int64) { p.ownersFile.rewriteAt = size }

// CloseOwners closes the file of owners, so that writes to it fail.
func (p *Plane) CloseOwners() error { return p.ownersFile.Close() }
