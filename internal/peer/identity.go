package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrNoIdentity is wrapped by an error of Load if the directory has no identity.
var ErrNoIdentity = errors.New("no identity")

// Identity is a node's key, its certificate and the cluster's root certificate, and on a voter
// the authority's key. The node's key never changes. While the authority is replaced, there are two
// root certificates, which this node trusts, and two certificates of its key.
//
// The certificate is valid for 10 years and the root for 30. A certificate alone opens no
// connection: at each connection Peer also asks the Directory, which has the public key of each
// member. So the authority's key does not admit its owner to nodes. It deceives clients of the API,
// and nodes that are about to join; so the authority is replaced when a voter is fenced.
type Identity struct {
	node     string
	cluster  string
	key      *ecdsa.PrivateKey
	members  []Member
	dir      string     // "" if it is in memory only
	changing sync.Mutex // held by update
	now      atomic.Pointer[credentials]
}

// Init creates a cluster. It writes the cluster's authority and the identity of the first node to
// dir, and returns this identity.
func Init(dir, node string, address netip.AddrPort) (*Identity, error) {
	if err := checkNewIdentity(dir, node, address); err != nil {
		return nil, err
	}
	id, err := newCluster(node, address)
	if err == nil {
		err = id.save(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("create a cluster in %s: %w", dir, err)
	}
	return id, nil
}

// Load reads the identity in dir. If there is none, the error wraps ErrNoIdentity.
func Load(dir string) (*Identity, error) {
	if present, err := exists(filepath.Join(dir, nodeFile)); err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	} else if !present {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoIdentity)
	}
	id, err := load(dir)
	if err != nil {
		return nil, fmt.Errorf("read identity in %s: %w", dir, err)
	}
	return id, nil
}

// Node returns the node's name.
func (id *Identity) Node() string { return id.node }

// Cluster returns the cluster's id in hex. Init chose it.
func (id *Identity) Cluster() string { return id.cluster }

// PublicKey returns the node's public key as PKIX DER.
func (id *Identity) PublicKey() []byte { return bytes.Clone(id.cert().RawSubjectPublicKeyInfo) }

// RootPEM returns the root certificate of the cluster. While the authority is replaced, it is the old
// one, which nodes that join see.
func (id *Identity) RootPEM() []byte { return encodeCertificate(id.authority().root) }

// HasAuthority reports whether this node has the authority's key and so can admit others.
func (id *Identity) HasAuthority() bool { return id.authority().key != nil }

func (id *Identity) cert() *x509.Certificate {
	cert, _ := id.now.Load().oldest()
	return cert
}

func (id *Identity) authority() authority {
	_, a := id.now.Load().oldest()
	return a
}

// Members returns the members in the JoinAnswer with which this node joined. The node trusts them
// until it has a replicated state.
func (id *Identity) Members() []Member { return slices.Clone(id.members) }

// Certificate returns the certificate chain and key that other nodes see, for a tls.Config. It changes
// while the authority is replaced.
func (id *Identity) Certificate() tls.Certificate {
	cert, a := id.now.Load().newest()
	return tlsCertificate(cert, a, id.key)
}

// PublicCertificate returns the chain and key that clients of the API see, and nodes that join. It is
// signed by the old authority until the new one is known everywhere.
func (id *Identity) PublicCertificate() tls.Certificate {
	cert, a := id.now.Load().oldest()
	return tlsCertificate(cert, a, id.key)
}

// signatureDomain precedes the data in what Sign signs. So its signatures are never valid in TLS,
// which uses the same key (RFC 8446 §4.4.3: what TLS signs begins with 64 spaces).
const signatureDomain = "palisade signature 1\x00"

// Sign signs data with this node's key: ECDSA (ASN.1) over the SHA-256 of signatureDomain and
// data. Callers with several kinds of data must begin the data with its kind.
func (id *Identity) Sign(data []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, id.key, signatureDigest(data))
}

// Verify checks a signature by Identity.Sign; nil means that it is valid. Signatures are not
// unique: anybody can turn one into another valid signature of the same data.
func Verify(publicKey, data, signature []byte) error {
	parsed, err := x509.ParsePKIXPublicKey(publicKey)
	if err != nil {
		return fmt.Errorf("verify signature: %w", err)
	}
	key, err := p256(parsed)
	if err != nil {
		return fmt.Errorf("verify signature: %w", err)
	}
	if !ecdsa.VerifyASN1(key, signatureDigest(data), signature) {
		return errors.New("the signature is invalid")
	}
	return nil
}

func signatureDigest(data []byte) []byte {
	h := sha256.New()
	h.Write([]byte(signatureDomain))
	h.Write(data)
	return h.Sum(nil)
}

// checkNewIdentity returns an error if an argument of Init or Join is invalid, or if dir already
// has an identity.
func checkNewIdentity(dir, node string, address netip.AddrPort) error {
	if err := checkName(node); err != nil {
		return err
	}
	if err := checkAddress(address); err != nil {
		return err
	}
	switch id, err := Load(dir); {
	case err == nil:
		return fmt.Errorf("%s already holds an identity: %s of cluster %s", dir, id.Node(), id.Cluster())
	case !errors.Is(err, ErrNoIdentity):
		return err
	}
	return nil
}

func checkAddress(a netip.AddrPort) error {
	if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().Zone() != "" || a.Port() == 0 {
		return fmt.Errorf("%s is not an address that other nodes can reach", a)
	}
	return nil
}

// newCluster makes an authority and returns the identity of the first node of a new cluster.
func newCluster(node string, address netip.AddrPort) (*Identity, error) {
	var id [16]byte
	rand.Read(id[:])
	a, err := newAuthority(hex.EncodeToString(id[:]))
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	cert, err := a.certify(node, address, key.Public())
	if err != nil {
		return nil, err
	}
	return newIdentity(cert, key, a)
}

// newIdentity makes an Identity. It returns an error if certificate, key and authority do not
// belong together.
func newIdentity(cert *x509.Certificate, key *ecdsa.PrivateKey, a authority) (*Identity, error) {
	var keys []*ecdsa.PrivateKey
	if a.key != nil {
		keys = append(keys, a.key)
	}
	c, err := newCredentials(key, []*x509.Certificate{a.root}, []*x509.Certificate{cert}, keys)
	if err != nil {
		return nil, err
	}
	return c.identity(key)
}

func (c *credentials) identity(key *ecdsa.PrivateKey) (*Identity, error) {
	cert, a := c.newest()
	cluster, err := clusterOf(a.root)
	id := &Identity{node: cert.Subject.CommonName, cluster: cluster, key: key}
	id.now.Store(c)
	return id, err
}

// save writes id to dir, the certificate last.
func (id *Identity) save(dir string) error {
	files, err := id.files()
	if err != nil {
		return err
	}
	if err := save(dir, files); err != nil {
		return err
	}
	id.dir = dir
	return nil
}

func (id *Identity) files() ([]file, error) {
	key, err := encodeKey(id.key)
	if err != nil {
		return nil, err
	}
	root, node, authority, err := id.now.Load().files()
	if err != nil {
		return nil, err
	}
	files := []file{root, {nodeKeyFile, key, 0o600}}
	if len(authority.data) > 0 {
		files = append(files, authority)
	}
	if len(id.members) > 0 {
		members, err := json.Marshal(id.members)
		if err != nil {
			return nil, err
		}
		files = append(files, file{membersFile, members, 0o644})
	}
	return append(files, node), nil
}

func load(dir string) (*Identity, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	key, err := loadKey(at(nodeKeyFile))
	if err != nil {
		return nil, err
	}
	c, err := loadCredentials(dir, key)
	if err != nil {
		return nil, err
	}
	id, err := c.identity(key)
	if err != nil {
		return nil, err
	}
	id.dir = dir
	if present, err := exists(at(membersFile)); err != nil || !present {
		return id, err
	}
	members, err := os.ReadFile(at(membersFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(members, &id.members); err != nil {
		return nil, fmt.Errorf("%s: %w", at(membersFile), err)
	}
	return id, nil
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}
