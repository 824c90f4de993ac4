package gossip

import (
	"sync/atomic"
)

// Stats count what gossip brought and was not believed, since the daemon began.
type Stats struct {
	Pulled    uint64 `json:"pulled"`    // documents fetched and believed
	Forged    uint64 `json:"forged"`    // documents their node did not sign; entries about leases it does not have
	Replayed  uint64 `json:"replayed"`  // documents no newer than the known one; two of one version
	Unknown   uint64 `json:"unknown"`   // of no member; entries about interfaces that this node's state does not have
	TooLarge  uint64 `json:"too_large"` // documents and lists of digests beyond their bounds
	Strangers uint64 `json:"strangers"` // packets and streams from no member's address, not decoded
	Refused   uint64 `json:"refused"`   // packets and streams not sealed with the cluster's key
	Intruders uint64 `json:"intruders"` // names or addresses that the node table does not have
	Dropped   uint64 `json:"dropped"`   // lists of digests not looked at: too many at once
}

type counters struct {
	pulled, forged, replayed, unknown, tooLarge, strangers, refused, intruders, dropped atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		Pulled: c.pulled.Load(), Forged: c.forged.Load(), Replayed: c.replayed.Load(), Unknown: c.unknown.Load(),
		TooLarge: c.tooLarge.Load(), Strangers: c.strangers.Load(), Refused: c.refused.Load(),
		Intruders: c.intruders.Load(), Dropped: c.dropped.Load(),
	}
}
