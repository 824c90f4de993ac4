package peer

import (
	"context"
	"errors"
	"net/netip"
)

// ErrUnavailable is wrapped by an error of the join callback that may pass, as during an
// election: the joining node asks again. Every other refusal is final.
var ErrUnavailable = errors.New("try again")

// JoinConfig is what a node that joins knows.
type JoinConfig struct {
	Dir      string         // where its identity will be
	Node     string         // its name
	Zone     string         //
	Address  netip.AddrPort // its own peer address
	Contacts []string       // host:port of nodes of the cluster
	Token    string         // as Token.String wrote it
}

// JoinRequest is what the callback of HandleJoin judges. The key's owner has proven that
// it holds the private half.
type JoinRequest struct {
	Token      string // its ID
	SecretHash string // hex SHA-256 of its secret
	Node       string
	Zone       string
	Address    netip.AddrPort
	PublicKey  []byte // PKIX DER
}

// JoinAnswer admits a node. Exactly "voter" is given the authority's key.
type JoinAnswer struct {
	Role    string   // "voter" or "nonvoter"
	Members []Member // whom the new node believes before it has a state of its own
}

// Member is a node as another one knows it.
type Member struct {
	Node      string `json:"node"`
	Address   string `json:"address"`    // host:port
	PublicKey []byte `json:"public_key"` // PKIX DER
}

// Join asks the cluster to admit this node, and saves its identity.
func Join(ctx context.Context, c JoinConfig) (*Identity, error) { return nil, errSkeleton }

// HandleJoin sets who judges requests to join. Call it before Run.
func (p *Peer) HandleJoin(admit func(context.Context, JoinRequest) (JoinAnswer, error)) {}
