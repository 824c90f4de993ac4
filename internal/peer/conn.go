package peer

import (
	"container/list"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// keepAlive detects within half a minute that a node has stopped without closing its
// connections.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}

// accepted is the byte that the dialled node sends when it has admitted the dialling node. In
// TLS 1.3 a client's handshake ends before the server has checked the client's certificate
// (RFC 8446 §2, §4.4.2). Dial waits for this byte, so it fails if the server refuses the client.
const accepted = 1

// Conn is a connection with a node whose certificate and membership were checked. Its owner is
// the caller of Dial or Accept, and must close it. Drop and the end of Run close it too.
type Conn struct {
	*tls.Conn
	node      string
	publicKey []byte
	place     *list.Element // in pending, if the protocol is Join
	onClose   func()
	once      sync.Once
}

// Node returns the remote node's name from its certificate, or "" if the protocol is Join.
func (c *Conn) Node() string { return c.node }

// Close ends the connection.
func (c *Conn) Close() error {
	c.once.Do(c.onClose)
	return c.Conn.Close()
}

// abort closes c without a TLS close message, which could block if the remote node does not
// read.
func (c *Conn) abort() {
	c.NetConn().Close()
	c.Close()
}

func (p *Peer) newConn(stream *tls.Conn, node string) *Conn {
	c := &Conn{Conn: stream, node: node, publicKey: stream.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo}
	c.onClose = func() { p.forget(c) }
	return c
}

// Dial opens a stream to node at its address in the Directory. It returns when the remote end
// has proven that it is node, and has admitted this node. Dial may be called before Run, and
// fails after the end of Run.
func (p *Peer) Dial(ctx context.Context, node, protocol string) (*Conn, error) {
	address, ok := p.nodes.Address(node)
	if !ok {
		return nil, fmt.Errorf("dial %s: its address is unknown", node)
	}
	return p.DialAddress(ctx, node, address, protocol)
}

// DialAddress is like Dial, but uses address (host:port) in place of the one in the Directory.
func (p *Peer) DialAddress(ctx context.Context, node, address, protocol string) (*Conn, error) {
	if !p.begin() {
		return nil, fmt.Errorf("dial %s: %w", node, net.ErrClosed)
	}
	defer p.work.Done()
	ctx, cancel := context.WithTimeout(ctx, 2*handshakeTimeout)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)()
	c, err := p.dial(ctx, node, address, protocol)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, fmt.Errorf("dial %s at %s: %w", node, address, err)
	}
	return c, nil
}

func (p *Peer) dial(ctx context.Context, node, address, protocol string) (*Conn, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(handshakeTimeout))
	stream := tls.Client(raw, p.clientConfig(node, protocol))
	if err := stream.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	c := p.newConn(stream, node)
	if err := errors.Join(c.awaitAccepted(), p.enter(c), raw.SetDeadline(time.Time{})); err != nil {
		c.abort()
		return nil, err
	}
	if !stop() { // ctx has ended, and AfterFunc has closed the connection
		c.abort()
		return nil, ctx.Err()
	}
	return c, nil
}

// ErrNotAdmitted is wrapped by an error of Dial and Call when the remote node has proven its
// identity and refuses this node, because its Directory does not have this node or has another
// key for it.
var ErrNotAdmitted = errors.New("it does not admit this node")

func (c *Conn) awaitAccepted() error {
	var b [1]byte
	if _, err := io.ReadFull(c.Conn, b[:]); err != nil {
		// An alert is encrypted with the handshake's keys, so only c.node can have sent it,
		// and nobody on the path.
		if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
			return fmt.Errorf("%s: %w: %w", c.node, ErrNotAdmitted, err)
		}
		return fmt.Errorf("%s closed the connection before admitting this node: %w", c.node, err)
	}
	if b[0] != accepted {
		return fmt.Errorf("%s sent %#x, want %#x", c.node, b[0], accepted)
	}
	return nil
}

// clientConfig returns the TLS configuration to dial node. It disables Go's check of the host
// name, because certificates name nodes. VerifyConnection checks the chain and the node's name.
func (p *Peer) clientConfig(node, protocol string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{protocol},
		Certificates:       []tls.Certificate{p.id.Certificate()},
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			found, err := p.verify(state, x509.ExtKeyUsageServerAuth)
			switch {
			case err != nil:
				return err
			case found != node:
				return fmt.Errorf("the remote node is %s, not %s", found, node)
			case state.NegotiatedProtocol != protocol:
				return fmt.Errorf("%s does not speak %s", node, protocol)
			}
			return nil
		},
	}
}

// serverConfig requires a client certificate, unless the client asks for Join only. Session
// tickets are disabled, because a resumed TLS session would not check the membership again.
func (p *Peer) serverConfig() *tls.Config {
	join := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ProtocolJoin},
		GetCertificate:         certificateOf(p.id.PublicCertificate),
		SessionTicketsDisabled: true,
	}
	members := join.Clone()
	members.NextProtos = p.protocols()
	members.GetCertificate = certificateOf(p.id.Certificate)
	members.ClientAuth = tls.RequireAnyClientCert // VerifyConnection checks the certificate
	members.VerifyConnection = func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol == "" {
			return errors.New("the client asked for no protocol")
		}
		node, err := p.verify(state, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return err
		}
		return p.mayOpen(state.NegotiatedProtocol, node, state.PeerCertificates[0].RawSubjectPublicKeyInfo)
	}
	choice := members.Clone()
	choice.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == ProtocolJoin {
			return join, nil
		}
		return members, nil
	}
	return choice
}

func certificateOf(now func() tls.Certificate) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := now()
		return &c, nil
	}
}

// verify checks, during the handshake, the remote node's certificate and membership, and returns
// its name. For ProtocolRenew it does not matter who signed the certificate.
func (p *Peer) verify(state tls.ConnectionState, usage x509.ExtKeyUsage) (node string, err error) {
	if len(state.PeerCertificates) == 0 {
		return "", errors.New("no certificate")
	}
	cert := state.PeerCertificates[0]
	if state.NegotiatedProtocol == ProtocolRenew {
		node = cert.Subject.CommonName
		err = checkName(node)
	} else {
		node, err = p.id.now.Load().check(cert, usage)
	}
	if err != nil {
		return "", err
	}
	return node, p.nodes.Check(node, cert.RawSubjectPublicKeyInfo)
}
