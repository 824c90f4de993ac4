package cluster

import "palisade/cluster/gossip"

// SetPresence publishes the leases of this node's interfaces, up and down, in place of the
// entries before.
func (c *Cluster) SetPresence(entries []gossip.Presence) {
	if c.gossip != nil {
		c.gossip.SetPresence(entries)
	}
}

// Down returns the epochs of the leases whose own node reports them down, and a channel
// that is closed when that set changes. An unknown lease counts as up. The caller must not
// change the map.
func (c *Cluster) Down() (epochs map[uint64]bool, changed <-chan struct{}) {
	if c.gossip == nil {
		return nil, nil
	}
	return c.gossip.Down()
}

// GossipMembers returns the nodes with their state in gossip. It is for operators; no
// decision depends on it. A cluster of one has none.
func (c *Cluster) GossipMembers() []gossip.Member {
	if c.gossip == nil {
		return nil
	}
	return c.gossip.Members()
}

// GossipStats counts what gossip received, and what it rejected.
func (c *Cluster) GossipStats() gossip.Stats {
	if c.gossip == nil {
		return gossip.Stats{}
	}
	return c.gossip.Stats()
}
