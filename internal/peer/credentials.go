package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"palisade/internal/atomicfile"
)

// credentials are the parts of an Identity that change when the authority is replaced. Their files
// are replaced one at a time. A crash between two of them leaves a key or a certificate too many,
// which loadCredentials drops.
type credentials struct {
	roots []authority         // that this node trusts
	certs []*x509.Certificate // of this node's key, the newest first, each signed by another root
}

// newest returns the certificate that this node shows to other nodes, and who signed it.
func (c *credentials) newest() (*x509.Certificate, authority) { return c.at(0) }

// oldest returns the certificate that this node shows to clients of the API and to nodes that join,
// which may trust only the authority that is being replaced.
func (c *credentials) oldest() (*x509.Certificate, authority) { return c.at(len(c.certs) - 1) }

func (c *credentials) at(i int) (*x509.Certificate, authority) {
	for _, a := range c.roots {
		if signed(c.certs[i], a.root) {
			return c.certs[i], a
		}
	}
	panic("peer: no root of the node's own certificate") // newCredentials has checked it
}

func signed(cert, root *x509.Certificate) bool {
	_, err := checkChain(cert, root, x509.ExtKeyUsageServerAuth)
	return err == nil
}

// check checks that one of the roots has signed cert for usage, and returns the node's name in cert.
func (c *credentials) check(cert *x509.Certificate, usage x509.ExtKeyUsage) (node string, err error) {
	var failures []error
	for _, a := range c.roots {
		node, err := checkChain(cert, a.root, usage)
		if err == nil {
			return node, nil
		}
		failures = append(failures, err)
	}
	return "", errors.Join(failures...)
}

func tlsCertificate(cert *x509.Certificate, a authority, key *ecdsa.PrivateKey) tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{cert.Raw, a.root.Raw}, PrivateKey: key, Leaf: cert}
}

// newCredentials returns what belongs together: certificates of key that a root signed, and keys of
// roots. It returns an error if no certificate, or none of the authorities' keys, belongs to a root.
func newCredentials(key *ecdsa.PrivateKey, roots, certs []*x509.Certificate, keys []*ecdsa.PrivateKey) (*credentials, error) {
	c := &credentials{}
	matched := 0
	for _, root := range roots {
		a := authority{root: root}
		for _, k := range keys {
			if k.PublicKey.Equal(root.PublicKey) {
				a.key = k
				matched++
			}
		}
		c.roots = append(c.roots, a)
	}
	if len(keys) > 0 && matched == 0 {
		return nil, errors.New("the authority's key does not belong to the root certificate")
	}
	failure := errors.New("no certificate")
	for _, cert := range certs {
		if _, err := c.check(cert, x509.ExtKeyUsageServerAuth); err != nil {
			failure = err
			continue
		}
		if !key.PublicKey.Equal(cert.PublicKey) {
			return nil, errors.New("the key does not belong to the certificate")
		}
		c.certs = append(c.certs, cert)
	}
	if len(c.certs) == 0 {
		return nil, failure
	}
	return c, nil
}

func loadCredentials(dir string, key *ecdsa.PrivateKey) (*credentials, error) {
	var roots, certs []*x509.Certificate
	for name, list := range map[string]*[]*x509.Certificate{rootFile: &roots, nodeFile: &certs} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			*list, err = parseEach(data, parseCertificate)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
	}
	var keys []*ecdsa.PrivateKey
	path := filepath.Join(dir, authorityFile)
	present, err := exists(path)
	if err != nil {
		return nil, err
	}
	if present {
		data, err := readSecret(path)
		if err != nil {
			return nil, err
		}
		if keys, err = parseEach(data, parseKey); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return newCredentials(key, roots, certs, keys)
}

// parseEach parses the PEM blocks of a file one by one. There must be at least one.
func parseEach[T any](data []byte, parse func([]byte) (T, error)) (all []T, err error) {
	for first := true; first || len(bytes.TrimSpace(data)) > 0; first = false {
		block, rest := pem.Decode(data)
		one := data
		if block != nil {
			one = data[:len(data)-len(rest)]
		}
		parsed, err := parse(one)
		if err != nil {
			return nil, err
		}
		all, data = append(all, parsed), rest
	}
	return all, nil
}

// files returns the files in the order in which save writes them.
func (c *credentials) files() (root, node, key file, err error) {
	root, node, key = file{rootFile, nil, 0o644}, file{nodeFile, nil, 0o644}, file{authorityFile, nil, 0o600}
	for _, a := range c.roots {
		root.data = append(root.data, encodeCertificate(a.root)...)
		if a.key == nil {
			continue
		}
		data, err := encodeKey(a.key)
		if err != nil {
			return root, node, key, err
		}
		key.data = append(key.data, data...)
	}
	for _, cert := range c.certs {
		node.data = append(node.data, encodeCertificate(cert)...)
	}
	return root, node, key, nil
}

// update replaces the credentials by those that change makes and, with keep, their files. change gets a
// copy.
func (id *Identity) update(keep bool, change func(c *credentials) error) error {
	id.changing.Lock()
	defer id.changing.Unlock()
	was := id.now.Load()
	next := &credentials{roots: slices.Clone(was.roots), certs: slices.Clone(was.certs)}
	if err := change(next); err != nil {
		return err
	}
	if keep && id.dir != "" {
		root, node, key, err := next.files()
		if err != nil {
			return err
		}
		files := []file{root, key, node}
		if len(key.data) == 0 {
			files = []file{root, node}
			if err := os.Remove(filepath.Join(id.dir, authorityFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		for _, f := range files {
			path := filepath.Join(id.dir, f.name)
			if is, err := os.ReadFile(path); err == nil && bytes.Equal(is, f.data) {
				continue
			}
			if err := atomicfile.Write(path, f.data, f.mode); err != nil {
				return err
			}
		}
	}
	id.now.Store(next)
	return nil
}

// find returns the authority with a root certificate (PEM), or nil if this node does not trust it.
func (c *credentials) find(root string) *authority {
	for i := range c.roots {
		if string(encodeCertificate(c.roots[i].root)) == root {
			return &c.roots[i]
		}
	}
	return nil
}

// NewAuthority makes another authority for this node's cluster. Nothing trusts it yet. It returns the
// root certificate and the key, both PEM.
func (id *Identity) NewAuthority() (root string, key []byte, err error) {
	a, err := newAuthority(id.cluster)
	if err != nil {
		return "", nil, err
	}
	key, err = encodeKey(a.key)
	return string(encodeCertificate(a.root)), key, err
}

// Trust adds a root certificate to those that this node trusts.
func (id *Identity) Trust(root string) error {
	return id.update(true, func(c *credentials) error { return c.trust(root, id.cluster) })
}

func (c *credentials) trust(root, cluster string) error {
	if c.find(root) != nil {
		return nil
	}
	cert, err := parseCertificate([]byte(root))
	if err != nil {
		return fmt.Errorf("new authority: %w", err)
	}
	if of, err := clusterOf(cert); err != nil || of != cluster || !cert.IsCA {
		return fmt.Errorf("new authority: it is of cluster %q, not %s: %w", of, cluster, err)
	}
	c.roots = append(c.roots, authority{root: cert})
	return nil
}

// AuthorityKey returns the key (PEM) of a root, or nil if this node does not have it.
func (id *Identity) AuthorityKey(root string) []byte {
	a := id.now.Load().find(root)
	if a == nil || a.key == nil {
		return nil
	}
	key, err := encodeKey(a.key)
	if err != nil {
		return nil
	}
	return key
}

// SetAuthorityKey keeps the key (PEM) of a root that this node trusts.
func (id *Identity) SetAuthorityKey(root string, key []byte) error {
	parsed, err := parseKey(key)
	if err != nil {
		return fmt.Errorf("key of the authority: %w", err)
	}
	return id.update(true, func(c *credentials) error {
		a := c.find(root)
		if a == nil || !parsed.PublicKey.Equal(a.root.PublicKey) {
			return errors.New("the key does not belong to the new authority")
		}
		a.key = parsed
		return nil
	})
}

// Certify signs a certificate (PEM) for a node's name, address and public key (PKIX DER) with the
// key of a root.
func (id *Identity) Certify(root, node string, address netip.AddrPort, publicKey []byte) ([]byte, error) {
	a := id.now.Load().find(root)
	if a == nil || a.key == nil {
		return nil, fmt.Errorf("%s does not have the authority's key", id.node)
	}
	parsed, err := x509.ParsePKIXPublicKey(publicKey)
	if err != nil {
		return nil, err
	}
	key, err := p256(parsed)
	if err != nil {
		return nil, err
	}
	cert, err := a.certify(node, address, key)
	if err != nil {
		return nil, err
	}
	return encodeCertificate(cert), nil
}

// Renew keeps a certificate (PEM) of this node that the authority root (PEM) signed. From now on this
// node trusts that root and shows the certificate to other nodes. Without keep, it forgets them when it
// is restarted.
func (id *Identity) Renew(root string, certificate []byte, keep bool) error {
	cert, err := parseCertificate(certificate)
	if err != nil {
		return fmt.Errorf("new certificate: %w", err)
	}
	return id.update(keep, func(c *credentials) error {
		if err := c.trust(root, id.cluster); err != nil {
			return err
		}
		node, err := checkChain(cert, c.find(root).root, x509.ExtKeyUsageServerAuth)
		switch {
		case err != nil:
			return fmt.Errorf("new certificate: %w", err)
		case node != id.node || !id.key.PublicKey.Equal(cert.PublicKey):
			return fmt.Errorf("the new certificate is for %s or for another key", node)
		}
		c.certs = slices.DeleteFunc(c.certs, func(o *x509.Certificate) bool { return signed(o, c.find(root).root) })
		c.certs = slices.Insert(c.certs, 0, cert)
		return nil
	})
}

// ShowOnly deletes the certificates that other authorities than root signed. Clients of the API and
// nodes that join see the new certificate from now on.
func (id *Identity) ShowOnly(root string) error {
	return id.update(true, func(c *credentials) error { return c.showOnly(root) })
}

func (c *credentials) showOnly(root string) error {
	a := c.find(root)
	if a == nil {
		return errors.New("this node does not trust the new authority")
	}
	rest := slices.DeleteFunc(slices.Clone(c.certs), func(o *x509.Certificate) bool { return !signed(o, a.root) })
	if len(rest) == 0 {
		return errors.New("this node has no certificate of the new authority")
	}
	c.certs = rest
	return nil
}

// TrustOnly drops all authorities but root, with their keys and certificates.
func (id *Identity) TrustOnly(root string) error {
	return id.update(true, func(c *credentials) error {
		if err := c.showOnly(root); err != nil {
			return err
		}
		c.roots = []authority{*c.find(root)}
		return nil
	})
}

// DropAuthorityKeys deletes the keys of all authorities.
func (id *Identity) DropAuthorityKeys() error {
	return id.update(true, func(c *credentials) error {
		for i := range c.roots {
			c.roots[i].key = nil
		}
		return nil
	})
}

// Trusted returns the root certificates (PEM) that this node trusts.
func (id *Identity) Trusted() (roots []string) {
	for _, a := range id.now.Load().roots {
		roots = append(roots, string(encodeCertificate(a.root)))
	}
	return roots
}

// Signers returns the root certificates (PEM) of the authorities that signed this node's certificates,
// the newest certificate first.
func (id *Identity) Signers() (roots []string) {
	c := id.now.Load()
	for i := range c.certs {
		_, a := c.at(i)
		roots = append(roots, string(encodeCertificate(a.root)))
	}
	return roots
}
