package gossip

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"palisade/ec2"
	"palisade/internal/peer"
)

// A claim says that a version of a node's document exists. memberlist carries claims, and
// everyone who has the gossip key can invent one, so a claim only causes a node to fetch the
// document.
type claim struct {
	Node    ec2.NodeID        `json:"node"`
	Boot    uint64            `json:"boot"`    // when the node's daemon started, in ns; higher at each start
	Version uint64            `json:"version"` // counts from 1 in each boot
	Digest  [sha256.Size]byte `json:"digest"`  // of the document's body
}

// String returns, for example, "node1 boot 17 version 3".
func (c claim) String() string {
	return fmt.Sprintf("%s boot %d version %d", c.Node, c.Boot, c.Version)
}

// newer reports whether c is a newer version than d. Both are claims of the same node.
func (c claim) newer(d claim) bool {
	if c.Boot != d.Boot {
		return c.Boot > d.Boot
	}
	return c.Version > d.Version
}

// A document says which interfaces of a node were up, and which down, at one moment.
type document struct {
	Node       ec2.NodeID `json:"node"`
	Boot       uint64     `json:"boot"`
	Version    uint64     `json:"version"`
	Applied    uint64     `json:"applied"` // index of the View that the node had
	Interfaces []Presence `json:"interfaces"`
}

// Bounds of a document. A node with more than maxEntries interfaces omits some that are up.
const (
	maxDocument = 4 << 20 // bytes, sealed
	maxEntries  = 20_000
)

// A sealed document is a signed document. Nodes store it and pass it on in this format:
//
//	+--------+----------------+-----------+------------------+
//	| format | signature size | signature | body             |
//	| 1 byte | 2, big endian  |           | document in JSON |
//	+--------+----------------+-----------+------------------+
//
// The node signs a label, the cluster's id and the body, so the signature is valid for no
// other purpose and in no other cluster.
const documentFormat = 1

var (
	errTooLarge = errors.New("presence document is too large")
	errForged   = errors.New("presence document is not signed by its node")
	errReplayed = errors.New("presence document is not newer than the known document")
	errUnknown  = errors.New("presence document of a node that is no member")
)

func signedBytes(cluster string, body []byte) []byte {
	return slices.Concat([]byte("palisade presence 1\x00"), []byte(cluster), []byte{0}, body)
}

func seal(id *peer.Identity, d document) ([]byte, claim, error) {
	body, err := json.Marshal(d)
	if err != nil {
		return nil, claim{}, fmt.Errorf("seal presence: %w", err)
	}
	signature, err := id.Sign(signedBytes(id.Cluster(), body))
	if err != nil {
		return nil, claim{}, fmt.Errorf("seal presence: %w", err)
	}
	raw := []byte{documentFormat}
	raw = binary.BigEndian.AppendUint16(raw, uint16(len(signature)))
	raw = slices.Concat(raw, signature, body)
	if len(raw) > maxDocument {
		return nil, claim{}, errTooLarge
	}
	return raw, claim{d.Node, d.Boot, d.Version, sha256.Sum256(body)}, nil
}

// unseal verifies a sealed document of node and returns the document and its claim. It checks
// the signature first, so it does not parse a body that the node did not sign.
func unseal(raw []byte, cluster string, node ec2.NodeID, publicKey []byte) (document, claim, error) {
	if len(raw) > maxDocument {
		return document{}, claim{}, errTooLarge
	}
	if len(raw) < 3 || raw[0] != documentFormat {
		return document{}, claim{}, fmt.Errorf("%w: unknown format", errForged)
	}
	size := int(binary.BigEndian.Uint16(raw[1:]))
	if len(raw) < 3+size {
		return document{}, claim{}, fmt.Errorf("%w: truncated", errForged)
	}
	signature, body := raw[3:3+size], raw[3+size:]
	if err := peer.Verify(publicKey, signedBytes(cluster, body), signature); err != nil {
		return document{}, claim{}, fmt.Errorf("%w: %v", errForged, err)
	}
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return document{}, claim{}, fmt.Errorf("%w: %v", errForged, err)
	}
	if d.Node != node {
		return document{}, claim{}, fmt.Errorf("%w: %s signed a document of %s", errForged, node, d.Node)
	}
	if len(d.Interfaces) > maxEntries {
		return document{}, claim{}, errTooLarge
	}
	return d, claim{d.Node, d.Boot, d.Version, sha256.Sum256(body)}, nil
}
