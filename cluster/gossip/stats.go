package gossip

import "sync/atomic"

// Stats counts, since New, the documents that a node accepted and everything that it rejected.
type Stats struct {
	Pulled    uint64 `json:"pulled"`    // documents fetched and accepted
	Forged    uint64 `json:"forged"`    // documents with a wrong signature; entries about another node's lease
	Replayed  uint64 `json:"replayed"`  // documents not newer than the known one; claims with another digest for a known version
	Unknown   uint64 `json:"unknown"`   // documents and claims of nodes that are no members; entries without a lease; unreadable lists
	TooLarge  uint64 `json:"too_large"` // documents and lists of claims over their bounds
	Strangers uint64 `json:"strangers"` // packets and streams from addresses of no member, dropped unread
	Refused   uint64 `json:"refused"`   // packets and streams not encrypted with the cluster's key
	Intruders uint64 `json:"intruders"` // nodes whose name or address is not in the node table, or whose name another node has
	Dropped   uint64 `json:"dropped"`   // lists of claims and streams that exceeded the number handled at once
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
