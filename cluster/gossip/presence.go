package gossip

import (
	"net/netip"

	"palisade/ec2"
)

// Presence is what a node says of one of its own interfaces: which lease it carries, and
// whether its link is up.
type Presence struct {
	Interface ec2.InterfaceID `json:"interface"`
	Epoch     uint64          `json:"epoch"`
	Private   netip.Addr      `json:"private"`
	MAC       ec2.MAC         `json:"mac"`
	Up        bool            `json:"up"`
}

// down orders what must be kept before what may go: an entry that says "up" changes
// nothing, for what is not mentioned counts as up.
func (p Presence) compareDownFirst(q Presence) int {
	switch {
	case p.Up == q.Up:
		return 0
	case p.Up:
		return 1
	}
	return -1
}
