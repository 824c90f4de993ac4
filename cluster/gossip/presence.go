package gossip

import (
	"fmt"
	"net/netip"

	"palisade/ec2"
)

// Presence is what a node reports of one of its interfaces: the interface's lease, and whether
// its link is up.
type Presence struct {
	Interface ec2.InterfaceID `json:"interface"`
	Epoch     uint64          `json:"epoch"`
	Private   netip.Addr      `json:"private"`
	MAC       ec2.MAC         `json:"mac"`
	Up        bool            `json:"up"`
}

// String returns, for example, "eni-1 epoch 7 10.10.0.4 02:00:00:00:00:01 up".
func (p Presence) String() string {
	link := "down"
	if p.Up {
		link = "up"
	}
	return fmt.Sprintf("%s epoch %d %s %s %s", p.Interface, p.Epoch, p.Private, p.MAC, link)
}

// compareDownFirst sorts entries that are down before entries that are up. A document may omit
// the latter, because a lease without an entry counts as up.
func (p Presence) compareDownFirst(q Presence) int {
	switch {
	case p.Up == q.Up:
		return 0
	case p.Up:
		return 1
	}
	return -1
}
