package peer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"
)

// HandleJoin sets the callback that judges requests to join. Call it before Run. The callback must
// return within 20 s. The user of the joining node sees the text of its error, and also a code if
// the error is a *RemoteError or has a method Code() string. Peer calls the callback only on a node
// with the authority's key.
func (p *Peer) HandleJoin(admit func(context.Context, JoinRequest) (JoinAnswer, error)) {
	p.mustNotRun()
	p.admit = admit
}

func (p *Peer) joinServer() *http.Server {
	s := p.rpcServer()
	s.Handler = http.HandlerFunc(p.serveJoin)
	s.WriteTimeout = 2 * joinTimeout
	s.SetKeepAlivesEnabled(false)
	return s
}

func (p *Peer) serveJoin(w http.ResponseWriter, r *http.Request) {
	if !p.begin() {
		return
	}
	defer p.work.Done()
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(handshakeTimeout)) // net/http also reads the body of a request that is refused
	if r.Method != http.MethodPost || r.URL.Path != joinPath {
		answerError(w, http.StatusNotFound, &RemoteError{CodeUnknownMethod, "the join protocol has only the method POST /join"})
		return
	}
	if !p.id.HasAuthority() || p.admit == nil {
		answerError(w, http.StatusMisdirectedRequest, &RemoteError{CodeNoAuthority, p.id.node + " cannot admit nodes, because it does not have the authority's key; ask a voter"})
		return
	}
	body, ok := readBody(w, r, maxJoinBody, handshakeTimeout)
	if !ok {
		return
	}
	request, key, err := decodeJoin(body)
	if err != nil {
		answerError(w, http.StatusBadRequest, &RemoteError{CodeBadRequest, err.Error()})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), joinTimeout)
	defer cancel()
	select {
	case p.joining <- struct{}{}:
		defer func() { <-p.joining }()
	case <-ctx.Done():
		answerError(w, http.StatusServiceUnavailable, &RemoteError{CodeUnavailable, "too many nodes ask to join at the same time"})
		return
	}
	p.pending.leave(connOf(r).place) // from now on, new connections cannot replace this one
	result, err := p.judge(ctx, request, key)
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(result)
		return
	}
	p.log.Warn("node not admitted", "node", request.Node, "token", request.Token, "from", r.RemoteAddr, "err", err)
	answer := remoteError(err)
	if errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
		answer.Code = CodeUnavailable
		answerError(w, http.StatusServiceUnavailable, answer)
		return
	}
	if answer.Code == "" {
		answer.Code = CodeRefused
	}
	select {
	case <-ctx.Done():
	case <-time.After(refusalPause):
	}
	answerError(w, http.StatusForbidden, answer)
}

// judge asks the callback whether to admit the node. If so, it signs a certificate for the key and
// returns the answer to the node.
func (p *Peer) judge(ctx context.Context, request JoinRequest, key *ecdsa.PublicKey) (*joinResult, error) {
	a := p.id.authority() // that the new node has seen in the handshake
	answer, err := p.admit(ctx, request)
	if err != nil {
		return nil, err
	}
	cert, err := a.certify(request.Node, request.Address, key)
	if err != nil {
		return nil, err
	}
	result := &joinResult{Certificate: encodeCertificate(cert), Root: encodeCertificate(a.root), Secret: answer.Secret, Members: answer.Members}
	for _, root := range p.id.Trusted() {
		if root != string(result.Root) {
			result.NewRoots = append(result.NewRoots, root)
		}
	}
	if answer.Role == "voter" {
		if result.Authority, err = encodeKey(a.key); err != nil {
			return nil, err
		}
	}
	p.log.Info("node admitted", "node", request.Node, "role", answer.Role, "address", request.Address)
	return result, nil
}

// decodeJoin decodes and checks a request to join, which anybody can send. It also returns the
// public key in the request.
func decodeJoin(data []byte) (JoinRequest, *ecdsa.PublicKey, error) {
	var b joinBody
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&b); err != nil {
		return JoinRequest{}, nil, fmt.Errorf("decode request to join: %w", err)
	}
	if id, err := hex.DecodeString(b.Token); err != nil || len(id) != tokenIDLen || len(b.Secret) != secretLen {
		return JoinRequest{}, nil, errors.New("the request has no valid token")
	}
	if err := checkName(b.Node); err != nil {
		return JoinRequest{}, nil, err
	}
	if len(b.Zone) > 64 {
		return JoinRequest{}, nil, errors.New("the zone's name is longer than 64 bytes")
	}
	address, err := netip.ParseAddrPort(b.Address)
	if err != nil || checkAddress(address) != nil {
		return JoinRequest{}, nil, fmt.Errorf("%q is not an address that other nodes can reach", b.Address)
	}
	request, err := x509.ParseCertificateRequest(b.Request)
	if err != nil {
		return JoinRequest{}, nil, fmt.Errorf("decode certificate request: %w", err)
	}
	key, err := p256(request.PublicKey)
	if err != nil {
		return JoinRequest{}, nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return JoinRequest{}, nil, fmt.Errorf("the node does not prove that it has the private key: %w", err)
	}
	if request.Subject.CommonName != b.Node {
		return JoinRequest{}, nil, fmt.Errorf("the certificate request is for %q, not %q", request.Subject.CommonName, b.Node)
	}
	public, err := x509.MarshalPKIXPublicKey(key) // the form in which the certificate will have the key
	if err != nil {
		return JoinRequest{}, nil, err
	}
	return JoinRequest{
		Token: b.Token, SecretHash: secretHash(b.Secret), Node: b.Node, Zone: b.Zone, Address: address, PublicKey: public,
	}, key, nil
}
