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

// A claim names a version of a node's document. It is what gossip carries; anyone who
// has the gossip key can make one up, so it is a reason to ask and no more.
type claim struct {
	Node    ec2.NodeID        `json:"node"`
	Boot    uint64            `json:"boot"`    // when that node's daemon began, in ns: a newer one begins above
	Version uint64            `json:"version"` // counts from 1 in each boot
	Digest  [sha256.Size]byte `json:"digest"`  // of the document's body
}

// newer reports whether c was made after d by the same node.
func (c claim) newer(d claim) bool {
	if c.Boot != d.Boot {
		return c.Boot > d.Boot
	}
	return c.Version > d.Version
}

// A document is all that a node says of its interfaces at one moment.
type document struct {
	Node       ec2.NodeID `json:"node"`
	Boot       uint64     `json:"boot"`
	Version    uint64     `json:"version"`
	Applied    uint64     `json:"applied"` // index of the View that the node had
	Interfaces []Presence `json:"interfaces"`
}

// Bounds of a document. A node with more interfaces leaves out some that are up.
const (
	maxDocument = 4 << 20 // bytes, sealed
	maxEntries  = 20_000
)

// A sealed document is what nodes store and hand on:
//
//	+--------+----------------+-----------+------------------+
//	| format | signature size | signature | body             |
//	| 1 byte | 2, big endian  |           | document in JSON |
//	+--------+----------------+-----------+------------------+
//
// The signature is the node's own, over a label, the cluster's id and the body, so that
// it stands for nothing else and in no other cluster.
const documentFormat = 1

var (
	errTooLarge = errors.New("presence document is too large")
	errForged   = errors.New("presence document is not signed by its node")
	errReplayed = errors.New("presence document is not newer than the one known")
	errUnknown  = errors.New("presence document of no member")
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

// unseal believes nothing before the signature holds: a document that node did not sign
// is never parsed.
func unseal(raw []byte, cluster string, node ec2.NodeID, publicKey []byte) (document, claim, error) {
	if len(raw) > maxDocument {
		return document{}, claim{}, errTooLarge
	}
	if len(raw) < 3 || raw[0] != documentFormat {
		return document{}, claim{}, fmt.Errorf("%w: unknown format", errForged)
	}
	size := int(binary.BigEndian.Uint16(raw[1:]))
	if len(raw) < 3+size {
		return document{}, claim{}, fmt.Errorf("%w: cut off", errForged)
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
		return document{}, claim{}, fmt.Errorf("%w: %s signed what is said to be of %s", errForged, node, d.Node)
	}
	if len(d.Interfaces) > maxEntries {
		return document{}, claim{}, errTooLarge
	}
	return d, claim{d.Node, d.Boot, d.Version, sha256.Sum256(body)}, nil
}
