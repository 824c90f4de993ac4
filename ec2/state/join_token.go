package state

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"time"

	"palisade/ec2"
)

// maxJoinTokens is the maximum number of tokens that have not expired.
const maxJoinTokens = 256

// CreateJoinToken stores a join token: until Expires, a machine that knows the secret may join.
type CreateJoinToken struct {
	ID         string
	SecretHash string // hex, SHA-256
	Role       ec2.NodeRole
	Expires    time.Time
}

func (r *CreateJoinToken) apply(t *tx) (Result, error) {
	hash, err := hex.DecodeString(r.SecretHash)
	switch {
	case r.ID == "" || len(r.ID) > 64:
		return Result{}, ec2.Errorf("InvalidParameterValue", "a join token needs an id of at most 64 bytes")
	case err != nil || len(hash) != 32:
		return Result{}, ec2.Errorf("InvalidParameterValue", "a join token needs the SHA-256 of its secret, in hex")
	case r.Role != "" && r.Role != ec2.Voter && r.Role != ec2.NonVoter:
		return Result{}, ec2.Errorf("InvalidParameterValue", "a node is a %s or a %s, not a %q", ec2.Voter, ec2.NonVoter, ec2.Clip(string(r.Role)))
	case !r.Expires.After(t.meta.Time):
		return Result{}, ec2.Errorf("InvalidParameterValue", "the join token has expired already")
	}
	t.dropExpiredTokens()
	if first[ec2.JoinToken](t.Txn, tableJoinToken, indexID, key(r.ID)) != nil {
		return Result{}, ec2.Errorf("EntityAlreadyExists", "join token %s exists", r.ID)
	}
	count := 0
	for range rows[ec2.JoinToken](t.Txn, tableJoinToken, indexID, "") {
		count++
	}
	if count >= maxJoinTokens {
		return Result{}, ec2.Errorf("ResourceLimitExceeded", "%d join tokens have not expired yet", count)
	}
	t.put(tableJoinToken, &ec2.JoinToken{ID: r.ID, SecretHash: r.SecretHash, Role: r.Role, Expires: r.Expires.UTC().Round(0)})
	return Result{}, nil
}

// AdmitNode makes a machine a member of the cluster and marks the join token as used. The name of
// a member is refused. The name of a fenced node is accepted with a new public key. An empty Role
// means the role of the token. Result: Node.
//
// The answer may be lost when the leader changes. So a node may repeat the request with the same
// key; the repetition changes nothing.
type AdmitNode struct {
	Token      string // its id
	SecretHash string
	Node       ec2.Node
}

func (r *AdmitNode) apply(t *tx) (Result, error) {
	token, err := t.token(r.Token, r.SecretHash)
	if err != nil {
		return Result{}, err
	}
	was := first[ec2.Node](t.Txn, tableNode, indexID, key(r.Node.ID))
	if token.UsedBy != "" {
		if token.UsedBy == r.Node.ID && was != nil && was.Member() && bytes.Equal(was.PublicKey, r.Node.PublicKey) {
			return Result{Node: was}, nil
		}
		return Result{}, ec2.Errorf("AuthFailure", "the join token has been used")
	}

	n := r.Node
	if n.Role == "" {
		n.Role = token.Role
	}
	switch {
	case (n.Role == ec2.NonVoter) != (token.Role == ec2.NonVoter):
		return Result{}, ec2.Errorf("AuthFailure", "the join token does not admit a %s", ec2.Clip(string(n.Role)))
	case !nodeName.MatchString(string(n.ID)):
		return Result{}, ec2.Errorf("InvalidParameterValue", "%q is not a node name: at most 63 lower-case letters, digits and hyphens", ec2.Clip(string(n.ID)))
	case n.Zone == "" || n.Address == "" || len(n.PublicKey) == 0:
		return Result{}, ec2.Errorf("MissingParameter", "node %s needs a zone, an address and a key", n.ID)
	case was != nil && was.Member():
		return Result{}, ec2.Errorf("EntityAlreadyExists", "there is a node %s; fence or remove it before another takes its name", n.ID)
	case was != nil && bytes.Equal(was.PublicKey, n.PublicKey):
		return Result{}, ec2.Errorf("AuthFailure", "node %s was fenced with that key", n.ID)
	case t.meta.isExpelled(n.PublicKey):
		return Result{}, ec2.Errorf("AuthFailure", "a node with that key was fenced or removed; empty the data directory of node %s to join with a new key", n.ID)
	}
	t.admit(&n)
	used := *token
	used.UsedBy = n.ID
	t.put(tableJoinToken, &used)
	return t.putNode(&n)
}

// The method token returns the join token with an id and a secret, unless it has expired. Its error
// does not tell an unknown id from a wrong secret.
func (t *tx) token(id, secretHash string) (*ec2.JoinToken, error) {
	token := first[ec2.JoinToken](t.Txn, tableJoinToken, indexID, key(id))
	if token == nil || subtle.ConstantTimeCompare([]byte(token.SecretHash), []byte(secretHash)) != 1 {
		return nil, ec2.Errorf("AuthFailure", "the join token is unknown to this cluster")
	}
	if !token.Expires.After(t.meta.Time) {
		return nil, ec2.Errorf("AuthFailure", "the join token has expired")
	}
	return token, nil
}

func (t *tx) dropExpiredTokens() {
	var expired []*ec2.JoinToken
	for k := range rows[ec2.JoinToken](t.Txn, tableJoinToken, indexID, "") {
		if !k.Expires.After(t.meta.Time) {
			expired = append(expired, k)
		}
	}
	for _, k := range expired {
		t.del(tableJoinToken, k)
	}
}
