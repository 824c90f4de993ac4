package ec2

import (
	"strings"
)

// NodeRole says whether a node votes on the log. "" reads as Voter.
type NodeRole string

const (
	Voter    NodeRole = "voter"
	NonVoter NodeRole = "nonvoter"
)

// NodeState is "" for a member.
type NodeState string

// Fenced nodes are out for good: nobody talks to them, their leases are gone, and the
// keys of the others have changed. A machine of that name comes back by AdmitNode.
const Fenced NodeState = "fenced"

// A Node is a cluster member that can carry instances. Its zone is the availability
// zone its instances are in: "us-east-1a".
//
// What was added to it since the first release is left out of its JSON while it is
// empty, so that the commands of that release still mean what they meant.
type Node struct {
	ID        NodeID
	Zone      string
	Role      NodeRole  `json:",omitempty"`
	Address   string    `json:",omitempty"` // of its peer port, "192.0.2.11:7400"; "" in a cluster of one
	PublicKey []byte    `json:",omitempty"` // of its certificate: PKIX, DER
	Number    uint32    `json:",omitempty"` // given in Apply, from 1 up, never reused; what the data plane knows it by
	Admitted  uint64    `json:",omitempty"` // given in Apply, rises with every admission of any node
	State     NodeState `json:",omitempty"`
}

// Member reports whether the node takes part: it carries instances and what it confirms
// counts.
func (n *Node) Member() bool { return n.State == "" }

// Serves reports whether the node's zone is one of the region's: its name and a letter.
func (n *Node) Serves(r Region) bool { return strings.HasPrefix(n.Zone, string(r)) }

// Votes reports whether the node is a voter that is not fenced.
func (n *Node) Votes() bool { return n.Member() && n.Role != NonVoter }
