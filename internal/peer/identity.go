package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// ErrNoIdentity: the directory holds none.
var ErrNoIdentity = errors.New("no identity")

// Identity is a node's key, its certificate and the cluster's root; with a voter, the
// authority's key too. It is immutable.
//
// The certificate is valid for 10 years and the root for 30; neither is renewed. That is
// acceptable because no connection goes by the certificate alone: the Directory is asked
// each time, and holds the public key of each member. For the same reason the authority's
// key, should a fenced voter have kept it, opens no connection between nodes. What it can
// do is to pose as the cluster to a node that is about to join, until the token expires.
type Identity struct {
	node      string
	cluster   string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	authority authority
	members   []Member
}

// Init makes a cluster: its authority, and the identity of its first node, in dir.
func Init(dir, node string, address netip.AddrPort) (*Identity, error) {
	if err := refuseSecond(dir, node, address); err != nil {
		return nil, err
	}
	id, err := found(node, address)
	if err == nil {
		err = id.save(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("make a cluster in %s: %w", dir, err)
	}
	return id, nil
}

// Load reads the identity in dir. Without one the error is ErrNoIdentity.
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

// Node is the node's name.
func (id *Identity) Node() string { return id.node }

// Cluster is the cluster's id, in hex. It is given once, by Init.
func (id *Identity) Cluster() string { return id.cluster }

// PublicKey is the node's, as PKIX DER.
func (id *Identity) PublicKey() []byte { return bytes.Clone(id.cert.RawSubjectPublicKeyInfo) }

// RootPEM is the cluster's root certificate.
func (id *Identity) RootPEM() []byte { return encodeCertificate(id.authority.root) }

// HasAuthority says whether this node can admit others: whether it holds the key.
func (id *Identity) HasAuthority() bool { return id.authority.key != nil }

// Members are those whom JoinAnswer named when this node joined: whom to believe until
// there is a replicated state to go by, and not longer.
func (id *Identity) Members() []Member { return slices.Clone(id.members) }

// Certificate is the node's, with the root behind it, for a tls.Config.
func (id *Identity) Certificate() tls.Certificate {
	return tls.Certificate{
		Certificate: [][]byte{id.cert.Raw, id.authority.root.Raw},
		PrivateKey:  id.key,
		Leaf:        id.cert,
	}
}

// signatureDomain keeps what Sign signs apart from what TLS signs with the same key
// (RFC 8446 §4.4.3 begins with 64 spaces).
const signatureDomain = "palisade signature 1\x00"

// Sign signs data in this node's name: ECDSA (ASN.1) over the SHA-256 of signatureDomain
// and data. A caller that signs two kinds of thing begins data with which it is.
func (id *Identity) Sign(data []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, id.key, signatureDigest(data))
}

// Verify checks a signature by Identity.Sign. A signature is not unique: who has one can
// make another of the same data.
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
		return errors.New("the signature is wrong")
	}
	return nil
}

func signatureDigest(data []byte) []byte {
	h := sha256.New()
	h.Write([]byte(signatureDomain))
	h.Write(data)
	return h.Sum(nil)
}

// refuseSecond checks what Init and Join begin with.
func refuseSecond(dir, node string, address netip.AddrPort) error {
	if err := checkName(node); err != nil {
		return err
	}
	if err := checkAddress(address); err != nil {
		return err
	}
	switch id, err := Load(dir); {
	case err == nil:
		return fmt.Errorf("%s holds an identity already: %s of cluster %s", dir, id.Node(), id.Cluster())
	case !errors.Is(err, ErrNoIdentity):
		return err
	}
	return nil
}

func checkAddress(a netip.AddrPort) error {
	if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().Zone() != "" || a.Port() == 0 {
		return fmt.Errorf("%s is no address that other nodes can reach", a)
	}
	return nil
}

// found makes the first identity of a cluster.
func found(node string, address netip.AddrPort) (*Identity, error) {
	a, err := newAuthority()
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

// newIdentity checks that the parts are of one piece.
func newIdentity(cert *x509.Certificate, key *ecdsa.PrivateKey, a authority) (*Identity, error) {
	node, err := checkChain(cert, a.root, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the key is not that of the certificate")
	}
	if a.key != nil && !a.key.PublicKey.Equal(a.root.PublicKey) {
		return nil, errors.New("the authority's key is not that of the root certificate")
	}
	cluster, err := clusterOf(a.root)
	return &Identity{node: node, cluster: cluster, cert: cert, key: key, authority: a}, err
}

// save writes id in dir, the certificate last.
func (id *Identity) save(dir string) error {
	files, err := id.files()
	if err != nil {
		return err
	}
	return save(dir, files)
}

func (id *Identity) files() ([]file, error) {
	key, err := encodeKey(id.key)
	if err != nil {
		return nil, err
	}
	files := []file{
		{rootFile, encodeCertificate(id.authority.root), 0o644},
		{nodeKeyFile, key, 0o600},
	}
	if id.HasAuthority() {
		key, err := encodeKey(id.authority.key)
		if err != nil {
			return nil, err
		}
		files = append(files, file{authorityFile, key, 0o600})
	}
	if len(id.members) > 0 {
		members, err := json.Marshal(id.members)
		if err != nil {
			return nil, err
		}
		files = append(files, file{membersFile, members, 0o644})
	}
	return append(files, file{nodeFile, encodeCertificate(id.cert), 0o644}), nil
}

func load(dir string) (*Identity, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	root, err := loadCertificate(at(rootFile))
	if err != nil {
		return nil, err
	}
	cert, err := loadCertificate(at(nodeFile))
	if err != nil {
		return nil, err
	}
	key, err := loadKey(at(nodeKeyFile))
	if err != nil {
		return nil, err
	}
	a := authority{root: root}
	if present, err := exists(at(authorityFile)); err != nil {
		return nil, err
	} else if present {
		if a.key, err = loadKey(at(authorityFile)); err != nil {
			return nil, err
		}
	}
	id, err := newIdentity(cert, key, a)
	if err != nil {
		return nil, err
	}
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

func loadCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
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
