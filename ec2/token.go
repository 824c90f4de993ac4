package ec2

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"time"
)

// maxJoinTokens bounds the tokens that wait to be used.
const maxJoinTokens = 256

// A JoinToken lets one node in, once. The State knows its secret by the hash alone, so
// that a snapshot or a log that gets about lets nobody in.
type JoinToken struct {
	ID         string
	SecretHash string // hex, SHA-256
	Role       NodeRole
	Expires    time.Time
	UsedBy     NodeID `json:",omitempty"` // "": not used yet
}

// CreateJoinToken lets the bearer of a secret become a node until Expires.
type CreateJoinToken struct {
	ID         string
	SecretHash string // hex, SHA-256
	Role       NodeRole
	Expires    time.Time
}

func (r *CreateJoinToken) apply(t *tx) (Result, error) {
	hash, err := hex.DecodeString(r.SecretHash)
	switch {
	case r.ID == "" || len(r.ID) > 64:
		return Result{}, Errorf("InvalidParameterValue", "a join token needs an id of at most 64 bytes")
	case err != nil || len(hash) != 32:
		return Result{}, Errorf("InvalidParameterValue", "a join token needs the SHA-256 of its secret, in hex")
	case r.Role != "" && r.Role != Voter && r.Role != NonVoter:
		return Result{}, Errorf("InvalidParameterValue", "a node is a %s or a %s, not a %q", Voter, NonVoter, Clip(string(r.Role)))
	case !r.Expires.After(t.meta.Time):
		return Result{}, Errorf("InvalidParameterValue", "the join token would have expired already")
	}
	t.dropExpiredTokens()
	if first[JoinToken](t.Txn, tableJoinToken, indexID, key(r.ID)) != nil {
		return Result{}, Errorf("EntityAlreadyExists", "join token %s exists", r.ID)
	}
	count := 0
	for range rows[JoinToken](t.Txn, tableJoinToken, indexID, "") {
		count++
	}
	if count >= maxJoinTokens {
		return Result{}, Errorf("ResourceLimitExceeded", "%d join tokens have not expired yet", count)
	}
	t.put(tableJoinToken, &JoinToken{ID: r.ID, SecretHash: r.SecretHash, Role: r.Role, Expires: r.Expires.UTC().Round(0)})
	return Result{}, nil
}

// AdmitNode makes a node a member on the strength of a token and uses the token up. A
// member's name is refused; a fenced one's may come back, with a new key, as another
// node of that name. No role takes the token's. Result: Node.
//
// The answer may be lost with the leader that gave it. So the token lets the same node
// with the same key in again, which changes nothing.
type AdmitNode struct {
	Token      string // its id
	SecretHash string
	Node       Node
}

func (r *AdmitNode) apply(t *tx) (Result, error) {
	token, err := t.token(r.Token, r.SecretHash)
	if err != nil {
		return Result{}, err
	}
	was := first[Node](t.Txn, tableNode, indexID, key(r.Node.ID))
	if token.UsedBy != "" {
		if token.UsedBy == r.Node.ID && was != nil && was.Member() && bytes.Equal(was.PublicKey, r.Node.PublicKey) {
			return Result{Node: was}, nil
		}
		return Result{}, Errorf("AuthFailure", "the join token has been used")
	}

	n := r.Node
	if n.Role == "" {
		n.Role = token.Role
	}
	switch {
	case (n.Role == NonVoter) != (token.Role == NonVoter):
		return Result{}, Errorf("AuthFailure", "the join token is not for a %s", Clip(string(n.Role)))
	case !nodeName.MatchString(string(n.ID)):
		return Result{}, Errorf("InvalidParameterValue", "%q is no name for a node: at most 63 small letters, digits and hyphens", Clip(string(n.ID)))
	case n.Zone == "" || n.Address == "" || len(n.PublicKey) == 0:
		return Result{}, Errorf("MissingParameter", "node %s needs a zone, an address and a key", n.ID)
	case was != nil && was.Member():
		return Result{}, Errorf("EntityAlreadyExists", "there is a node %s; fence or remove it before another takes its name", n.ID)
	case was != nil && bytes.Equal(was.PublicKey, n.PublicKey):
		return Result{}, Errorf("AuthFailure", "node %s was fenced with that key", n.ID)
	}
	t.admit(&n)
	used := *token
	used.UsedBy = n.ID
	t.put(tableJoinToken, &used)
	return t.putNode(&n)
}

// token finds a token that is still good for something. Which of its parts is wrong is
// nobody's business.
func (t *tx) token(id, secretHash string) (*JoinToken, error) {
	token := first[JoinToken](t.Txn, tableJoinToken, indexID, key(id))
	if token == nil || subtle.ConstantTimeCompare([]byte(token.SecretHash), []byte(secretHash)) != 1 {
		return nil, Errorf("AuthFailure", "the join token is not one of this cluster's")
	}
	if !token.Expires.After(t.meta.Time) {
		return nil, Errorf("AuthFailure", "the join token has expired")
	}
	return token, nil
}

func (t *tx) dropExpiredTokens() {
	var gone []*JoinToken
	for k := range rows[JoinToken](t.Txn, tableJoinToken, indexID, "") {
		if !k.Expires.After(t.meta.Time) {
			gone = append(gone, k)
		}
	}
	for _, k := range gone {
		t.del(tableJoinToken, k)
	}
}
