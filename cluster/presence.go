package cluster

import "palisade/cluster/gossip"

// SetPresence replaces what this node publishes: for each of its interfaces, the lease and whether
// the link is up.
func (c *Cluster) SetPresence(entries []gossip.Presence) {
	if c.gossip != nil {
		c.gossip.SetPresence(entries)
	}
}

// Down returns the epochs of the leases whose own node reports them down, and a channel
// that is closed when the map is replaced. A lease of which nothing is known counts as up. The
// caller must not change the map.
func (c *Cluster) Down() (epochs map[uint64]bool, changed <-chan struct{}) {
	if c.gossip == nil {
		return nil, nil
	}
	return c.gossip.Down()
}

// GossipMembers returns the nodes with their state in gossip, or nil in a cluster of one. It is
// for operators; no decision depends on it.
func (c *Cluster) GossipMembers() []gossip.Member {
	if c.gossip == nil {
		return nil
	}
	return c.gossip.Members()
}

// GossipKeysInUse returns the keys that this node's gossip uses: it encrypts with the first, and accepts
// all. It is empty while this node does not gossip.
func (c *Cluster) GossipKeysInUse() [][]byte {
	if c.gossip == nil {
		return nil
	}
	return c.gossip.Keys()
}

// GossipStats returns how many documents gossip accepted, and how much it rejected.
func (c *Cluster) GossipStats() gossip.Stats {
	if c.gossip == nil {
		return gossip.Stats{}
	}
	return c.gossip.Stats()
}
