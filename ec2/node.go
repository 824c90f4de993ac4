package ec2

import (
	"strings"
	"time"
)

// NodeRole says whether a node is a Raft voter. "" means Voter.
type NodeRole string

const (
	Voter    NodeRole = "voter"
	NonVoter NodeRole = "nonvoter"
)

// NodeState says whether a node is fenced. "" means a member of the cluster.
type NodeState string

// A Fenced node is excluded for good: the members refuse its connections, its leases have ended,
// and the gossip key is replaced. A machine of the same name can join again by AdmitNode.
const Fenced NodeState = "fenced"

// A Node is a cluster member that can carry instances. Its zone is the availability zone of
// the instances on it, "us-east-1a", unless an operator has set the zones of a region and which nodes
// carry them (ec2/region).
//
// JSON leaves out an empty field that the first release did not have, so that commands of that
// release keep their meaning.
type Node struct {
	ID        NodeID
	Zone      string
	Role      NodeRole  `json:",omitempty"`
	Address   string    `json:",omitempty"` // of its peer port, "192.0.2.11:7400"; "" in a cluster of one
	PublicKey []byte    `json:",omitempty"` // of its certificate: PKIX, DER
	Number    uint32    `json:",omitempty"` // assigned in Apply, counts from 1, never reused; the data plane identifies the node by it
	Admitted  uint64    `json:",omitempty"` // assigned in Apply, higher than at every earlier admission of any node
	State     NodeState `json:",omitempty"`
}

// Member reports whether the node is not fenced. Only members carry instances, and a sweep waits
// until the members confirm.
func (n *Node) Member() bool { return n.State == "" }

// Serves reports whether the node's zone belongs to the region: the zone's name begins with the
// region's name.
func (n *Node) Serves(r Region) bool { return strings.HasPrefix(n.Zone, string(r)) }

// Votes reports whether the node is a voter that is not fenced.
func (n *Node) Votes() bool { return n.Member() && n.Role != NonVoter }

// A JoinToken admits one node to the cluster. The State has only the hash of its secret, so a
// leaked log or snapshot admits no node.
type JoinToken struct {
	ID         string
	SecretHash string // hex, SHA-256
	Role       NodeRole
	Expires    time.Time
	UsedBy     NodeID `json:",omitempty"` // "" until a node has joined with it
}
