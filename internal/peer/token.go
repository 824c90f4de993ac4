package peer

// Token admits one node, once.
type Token struct {
	ID     string // names it in the replicated state; not secret
	secret []byte
	root   [32]byte // SHA-256 of the authority's public key
}

// NewToken makes a token for the cluster whose root certificate (PEM) is given.
func NewToken(root []byte) (Token, error) { return Token{}, errSkeleton }

// ParseToken reads what String wrote.
func ParseToken(text string) (Token, error) { return Token{}, errSkeleton }

// String is the text that the joining node is given. It holds the secret.
func (t Token) String() string { return "" }

// SecretHash is the hex SHA-256 of the secret: what the cluster keeps.
func (t Token) SecretHash() string { return "" }
