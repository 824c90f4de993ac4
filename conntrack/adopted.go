package conntrack

import "net/netip"

// ForgetAdopted removes the connections of the file whose zone has not been added yet and of which
// gone returns true for an address, and returns their number. epoch is that of the zone's lease. The
// node calls it before it adds zones, so that no packet meets such a connection: an earlier process
// made the connection with the former owner of the address. gone is called with a shard's mutex
// held.
func (t *Tracker) ForgetAdopted(gone func(epoch uint64, address netip.Addr) bool) int {
	removed := map[uint64][2]int32{}
	n := 0
	for i := range t.shards {
		n += t.shards[i].purge(t, func(e *entry) bool {
			if (*t.zones.Load())[e.epoch] != nil {
				return false
			}
			if !gone(e.epoch, netip.AddrFrom16(e.src).Unmap()) && !gone(e.epoch, netip.AddrFrom16(e.dst).Unmap()) {
				return false
			}
			pool := tracked
			if e.has(isUntracked) {
				pool = untracked
			}
			counts := removed[e.epoch]
			counts[pool]++
			removed[e.epoch] = counts
			return true
		})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for epoch, counts := range removed {
		left := t.adopted[epoch]
		for pool := range left {
			left[pool] -= counts[pool]
		}
		t.adopted[epoch] = left
	}
	return n
}
