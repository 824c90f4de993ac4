package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// notBefore is the first day of validity of every certificate. A node remains a member until the
// cluster fences or removes it, not until a date. So the validity is long, and a node whose
// clock is wrong by years still reaches the others. See Identity for the consequences.
var notBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	rootYears = 30
	nodeYears = 10
)

var nodeName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)

func checkName(node string) error {
	if !nodeName.MatchString(node) {
		return fmt.Errorf("%q is not a node name: use 1 to 63 of a-z, 0-9, dot and hyphen, the first a letter or digit", node)
	}
	return nil
}

// authority signs certificates. Only voters have its key.
type authority struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey // nil on a node that is no voter
}

// newAuthority makes an authority for a cluster. One that replaces another is for the same cluster.
func newAuthority(cluster string) (authority, error) {
	key, err := newKey()
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "palisade " + cluster},
		URIs:                  []*url.URL{{Scheme: "palisade", Host: cluster}},
		NotBefore:             notBefore,
		NotAfter:              time.Now().AddDate(rootYears, 0, 0),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	root, err := sign(template, template, key.Public(), key)
	return authority{root: root, key: key}, err
}

// certify returns a signed certificate for a node's name, address and public key, for use as
// server and client.
func (a authority) certify(node string, address netip.AddrPort, public any) (*x509.Certificate, error) {
	if a.key == nil {
		return nil, errors.New("this node does not have the authority's key")
	}
	cluster, err := clusterOf(a.root)
	if err != nil {
		return nil, err
	}
	notAfter := time.Now().AddDate(nodeYears, 0, 0)
	if notAfter.After(a.root.NotAfter) {
		notAfter = a.root.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: node},
		URIs:                  []*url.URL{nodeURI(cluster, node)},
		IPAddresses:           []net.IP{address.Addr().AsSlice()},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	return sign(template, a.root, public, a.key)
}

func sign(template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// checkChain checks that root has signed cert for usage, and returns the node's name in cert. It
// accepts no intermediate certificates and no other roots.
func checkChain(cert, root *x509.Certificate, usage x509.ExtKeyUsage) (node string, err error) {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return "", err
	}
	cluster, err := clusterOf(root)
	if err != nil {
		return "", err
	}
	node = cert.Subject.CommonName
	if err := checkName(node); err != nil {
		return "", err
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != nodeURI(cluster, node).String() {
		return "", fmt.Errorf("the certificate of %s does not name cluster %s", node, cluster)
	}
	return node, nil
}

func nodeURI(cluster, node string) *url.URL {
	return &url.URL{Scheme: "palisade", Host: cluster, Path: "/node/" + node}
}

// clusterOf returns the cluster id in a root certificate.
func clusterOf(root *x509.Certificate) (string, error) {
	if len(root.URIs) == 1 && root.URIs[0].Scheme == "palisade" {
		id := root.URIs[0].Host
		if raw, err := hex.DecodeString(id); err == nil && len(raw) == 16 && id == strings.ToLower(id) {
			return id, nil
		}
	}
	return "", errors.New("the root certificate names no cluster")
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// newSerial returns a random serial number, because several voters sign certificates without
// a common counter. RFC 5280 §4.1.2.2 requires it to be positive.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY" // PKCS #8
)

func encodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert.Raw})
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	der, err := onlyBlock(data, pemCertificate)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if _, err := p256(cert.PublicKey); err != nil {
		return nil, err
	}
	return cert, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), err
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	der, err := onlyBlock(data, pemKey)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("not an ECDSA P-256 key")
	}
	return key, nil
}

func onlyBlock(data []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fmt.Errorf("not one PEM block of type %s", kind)
	}
	return block.Bytes, nil
}

func p256(public any) (*ecdsa.PublicKey, error) {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("not an ECDSA P-256 key")
	}
	return key, nil
}
