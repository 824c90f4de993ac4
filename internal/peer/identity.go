package peer

import (
	"crypto/tls"
	"errors"
	"net/netip"
)

// ErrNoIdentity: the directory holds none.
var ErrNoIdentity = errors.New("no identity")

// Identity is a node's key and certificate.
type Identity struct{}

// Init makes a cluster: its authority, and the identity of its first node, in dir.
func Init(dir, node string, address netip.AddrPort) (*Identity, error) { return nil, errSkeleton }

// Load reads the identity in dir, or ErrNoIdentity.
func Load(dir string) (*Identity, error) { return nil, errSkeleton }

func (id *Identity) Node() string                     { return "" }
func (id *Identity) Cluster() string                  { return "" }
func (id *Identity) PublicKey() []byte                { return nil }
func (id *Identity) Certificate() tls.Certificate     { return tls.Certificate{} }
func (id *Identity) RootPEM() []byte                  { return nil }
func (id *Identity) HasAuthority() bool               { return false }
func (id *Identity) Members() []Member                { return nil }
func (id *Identity) Sign(data []byte) ([]byte, error) { return nil, errSkeleton }

// Verify checks a signature of Identity.Sign.
func Verify(publicKey, data, signature []byte) error { return errSkeleton }
