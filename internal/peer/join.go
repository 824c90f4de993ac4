package peer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"palisade/internal/atomicfile"
)

const (
	joinPath      = "/join"
	maxJoinBody   = 64 << 10
	maxJoinAnswer = 4 << 20
	maxJoining    = 8                      // requests that are judged at the same time; more wait
	joinTimeout   = 20 * time.Second       // for the callback to judge one request
	refusalPause  = 250 * time.Millisecond // a refused request keeps its slot this long, which allows 32 guesses a second
	joinPatience  = 30 * time.Second       // default of JoinConfig.Patience
	joinPause     = 500 * time.Millisecond // between the attempts of the joining node
)

// ErrUnavailable must be wrapped by an error of the join callback that is temporary, for example
// because of an election. The joining node then asks again. Every other refusal is final.
var ErrUnavailable = errors.New("try again")

// Codes of a *RemoteError that Join returns, besides the codes that the callback chooses.
const (
	CodeRefused     = "Refused"
	CodeUnavailable = "Unavailable"
	CodeNoAuthority = "NoAuthority" // the contact is no voter, so it cannot sign certificates
)

// JoinConfig says how a node joins a cluster.
type JoinConfig struct {
	// Dir is the directory in which the identity is saved. Required.
	Dir string
	// Node is the node's name, unique in the cluster. Required. A name in use is refused.
	Node string
	// Zone is the node's availability zone. Default "": the node has no zone, and the cluster
	// decides whether to admit it.
	Zone string
	// Address is the peer address of this node. Required. It is in the certificate and in the
	// table of members. If it is wrong, the other nodes cannot reach this node.
	Address netip.AddrPort
	// Contacts are nodes of the cluster, as host:port. Required. One of them must be a voter,
	// because only voters can admit a node.
	Contacts []string
	// Token is a join token, as Token.String writes it. Required. An expired or used one is
	// refused.
	Token string
	// Patience is how long Join asks again while no contact admits or refuses the node.
	// Default 30 s. If it is shorter than an election, a join during an election fails.
	Patience time.Duration

	// Keep must save JoinAnswer.Secret. Join calls it, if there is a secret, before it saves
	// the identity, so that a node never has its identity without the secret. Default nil:
	// the secret is dropped.
	Keep func(secret []byte) error
}

// JoinRequest is a request that the callback of HandleJoin judges. The node has proven that
// it has the private key of PublicKey.
//
// An answer can be lost after the token was used. The node then asks again with the same
// key. If the table of members already has this name with this key, the callback can admit the
// request without a token, because only that member can have made the request.
type JoinRequest struct {
	Token      string // ID of the token
	SecretHash string // hex SHA-256 of the token's secret
	Node       string
	Zone       string
	Address    netip.AddrPort
	PublicKey  []byte // PKIX DER
}

// JoinAnswer is the callback's answer if it admits a node. Only a node with the role "voter" gets
// the authority's key.
type JoinAnswer struct {
	Role    string   // "voter" or "nonvoter"
	Secret  []byte   // all voters of the cluster share it; goes to JoinConfig.Keep
	Members []Member // the new node trusts them until it has a state; see Identity.Members
}

// Member is a node in a JoinAnswer.
type Member struct {
	Node      string `json:"node"`
	Address   string `json:"address"`        // host:port
	PublicKey []byte `json:"public_key"`     // PKIX DER
	Role      string `json:"role,omitempty"` // "voter" or "nonvoter"; "" if an earlier release wrote it
}

// joinBody and joinResult are the JSON of a request and its answer.
type joinBody struct {
	Token   string `json:"token"`
	Secret  []byte `json:"secret"`
	Node    string `json:"node"`
	Zone    string `json:"zone"`
	Address string `json:"address"`
	Request []byte `json:"request"` // PKCS #10 DER, signed by the new node's key
}

type joinResult struct {
	Certificate []byte   `json:"certificate"` // PEM, as Root and Authority
	Root        []byte   `json:"root"`
	Authority   []byte   `json:"authority,omitempty"` // key
	Secret      []byte   `json:"secret,omitempty"`
	Members     []Member `json:"members,omitempty"`
	NewRoots    []string `json:"new_roots,omitempty"` // that also sign certificates of members, while Root is being replaced
}

// Join asks the cluster to admit this node, saves the new identity in c.Dir and returns it. It asks
// one contact after the other, repeatedly for up to c.Patience, until one admits or refuses the node.
// It sends the token's secret only to nodes that prove to be of the token's cluster. A refusal is a
// *RemoteError.
func Join(ctx context.Context, c JoinConfig) (*Identity, error) {
	if err := checkNewIdentity(c.Dir, c.Node, c.Address); err != nil {
		return nil, err
	}
	token, err := ParseToken(c.Token)
	if err != nil {
		return nil, err
	}
	if len(c.Contacts) == 0 {
		return nil, errors.New("join: at least one contact is required")
	}
	for _, contact := range c.Contacts {
		if _, _, err := net.SplitHostPort(contact); err != nil {
			return nil, fmt.Errorf("join: a contact must be HOST:PORT, such as 192.0.2.11:7400: %w", err)
		}
	}
	id, err := join(ctx, c, token)
	if err == nil {
		err = id.save(c.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return id, nil
}

func join(ctx context.Context, c JoinConfig, token Token) (*Identity, error) {
	key, err := joinKey(c.Dir)
	if err != nil {
		return nil, err
	}
	body, err := c.body(token, key)
	if err != nil {
		return nil, err
	}
	if c.Patience == 0 {
		c.Patience = joinPatience
	}
	ctx, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	for {
		var failures []error
		again := false
		for _, contact := range c.Contacts {
			result, err := ask(ctx, contact, token, body)
			if err == nil {
				id, err := result.identity(c.Node, key, token)
				if err == nil && c.Keep != nil && result.Secret != nil {
					err = c.Keep(result.Secret)
				}
				return id, err
			}
			failures = append(failures, fmt.Errorf("%s: %w", contact, err))
			switch classify(err) {
			case final:
				return nil, failures[len(failures)-1]
			case askAgain:
				again = true
			}
		}
		if !again {
			return nil, errors.Join(failures...)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(failures...)
		case <-time.After(joinPause):
		}
	}
}

// An outcome says what Join does after a contact has returned an error.
type outcome int

const (
	askAgain outcome = iota // the error is temporary: ask this contact again later
	askOther                // this contact cannot admit nodes: ask the others
	final                   // the cluster refuses this node: give up
)

func classify(err error) outcome {
	remote, ok := errors.AsType[*RemoteError](err)
	switch {
	case errors.Is(err, errOtherCluster), ok && remote.Code == CodeNoAuthority:
		return askOther
	case ok && remote.Code != CodeUnavailable:
		return final
	}
	return askAgain
}

// joinKey returns the new node's key. It stores the key in dir at the first attempt, so that later
// attempts use the same key: see JoinRequest.
func joinKey(dir string) (*ecdsa.PrivateKey, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, nodeKeyFile)
	if present, err := exists(path); err != nil {
		return nil, err
	} else if present {
		return loadKey(path)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, atomicfile.Write(path, data, 0o600)
}

func (c *JoinConfig) body(token Token, key *ecdsa.PrivateKey) ([]byte, error) {
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.Node}}, key)
	if err != nil {
		return nil, err
	}
	return json.Marshal(joinBody{token.ID, token.secret[:], c.Node, c.Zone, c.Address.String(), request})
}

var errOtherCluster = errors.New("the contact is not of the token's cluster")

// ask sends body to a contact, after the contact has proven to be of the token's cluster, and
// returns its answer.
func ask(ctx context.Context, contact string, token Token, body []byte) (*joinResult, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
			defer cancel()
			return (&tls.Dialer{Config: joinClientConfig(token)}).DialContext(ctx, "tcp", address)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
	}
	// The scheme is http because DialContext already does TLS.
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+contact+joinPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxJoinAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, decodeError(response.Status, answer)
	}
	result := &joinResult{}
	return result, json.Unmarshal(answer, result)
}

func joinClientConfig(token Token) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{ProtocolJoin},
		InsecureSkipVerify: true, // VerifyConnection checks the chain with the token's root, not the machine's roots
		VerifyConnection: func(state tls.ConnectionState) error {
			certs := state.PeerCertificates
			if len(certs) != 2 || sha256.Sum256(certs[1].RawSubjectPublicKeyInfo) != token.root {
				return errOtherCluster
			}
			if _, err := checkChain(certs[0], certs[1], x509.ExtKeyUsageServerAuth); err != nil {
				return fmt.Errorf("%w: %w", errOtherCluster, err)
			}
			if state.NegotiatedProtocol != ProtocolJoin {
				return fmt.Errorf("%w: it does not speak the join protocol", errOtherCluster)
			}
			return nil
		},
	}
}

// identity checks the cluster's answer and makes the new node's identity from it.
func (r *joinResult) identity(node string, key *ecdsa.PrivateKey, token Token) (*Identity, error) {
	root, err := parseCertificate(r.Root)
	if err != nil {
		return nil, fmt.Errorf("root certificate in the answer: %w", err)
	}
	if sha256.Sum256(root.RawSubjectPublicKeyInfo) != token.root {
		return nil, errOtherCluster
	}
	cert, err := parseCertificate(r.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate in the answer: %w", err)
	}
	a := authority{root: root}
	if len(r.Authority) > 0 {
		if a.key, err = parseKey(r.Authority); err != nil {
			return nil, fmt.Errorf("authority's key in the answer: %w", err)
		}
	}
	id, err := newIdentity(cert, key, a)
	if err != nil {
		return nil, err
	}
	if id.node != node {
		return nil, fmt.Errorf("the answer's certificate is for %s, not %s", id.node, node)
	}
	id.members = r.Members
	for _, root := range r.NewRoots {
		if err := id.Trust(root); err != nil {
			return nil, err
		}
	}
	return id, nil
}
