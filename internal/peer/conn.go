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

// keepAlive finds out about a node that is gone without a word, within half a minute.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}

// accepted is the one byte that whoever was dialled sends when it has admitted the dialling
// node. In TLS 1.3 a client is ready before its certificate was judged (RFC 8446 §4.4.2,
// §2); by the byte, Dial fails when the far end refuses.
const accepted = 1

// Conn is a connection with a node whose certificate and membership were checked. Whoever
// was given it closes it; Drop and the end of Run close it too.
type Conn struct {
	*tls.Conn
	node      string
	publicKey []byte
	place     *list.Element // among the strangers, of a join
	onClose   func()
	once      sync.Once
}

// Node is the far end, by its certificate. Of a join it is "".
func (c *Conn) Node() string { return c.node }

// Close ends the connection.
func (c *Conn) Close() error {
	c.once.Do(c.onClose)
	return c.Conn.Close()
}

// abort closes c without a farewell, which could wait for a far end that does not read.
func (c *Conn) abort() {
	c.NetConn().Close()
	c.Close()
}

func (p *Peer) newConn(stream *tls.Conn, node string) *Conn {
	c := &Conn{Conn: stream, node: node, publicKey: stream.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo}
	c.onClose = func() { p.forget(c) }
	return c
}

// Dial opens a stream to node, where the Directory says it is. It returns when the far end
// has proven that it is that node and has admitted this one. It works from New until the
// end of Run, before Run as well.
func (p *Peer) Dial(ctx context.Context, node, protocol string) (*Conn, error) {
	address, ok := p.nodes.Address(node)
	if !ok {
		return nil, fmt.Errorf("dial %s: no address of it is known", node)
	}
	return p.DialAddress(ctx, node, address, protocol)
}

// DialAddress opens a stream to node at address (host:port), as Dial does.
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
	if !stop() { // ctx ended, and took the connection with it
		c.abort()
		return nil, ctx.Err()
	}
	return c, nil
}

// ErrNotAdmitted is wrapped by an error of Dial and Call when the far end, which is who it is
// said to be, refuses this node: by its table this one is no member, or has another key.
var ErrNotAdmitted = errors.New("it does not admit this node")

func (c *Conn) awaitAccepted() error {
	var b [1]byte
	if _, err := io.ReadFull(c.Conn, b[:]); err != nil {
		// An alert is under the handshake's keys: it is c.node that says so, not somebody
		// on the way who cut the connection.
		if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
			return fmt.Errorf("%s: %w: %w", c.node, ErrNotAdmitted, err)
		}
		return fmt.Errorf("%s closed the connection before it admitted this node: %w", c.node, err)
	}
	if b[0] != accepted {
		return fmt.Errorf("%s answers %#x; want %#x", c.node, b[0], accepted)
	}
	return nil
}

// clientConfig dials node. A host name proves nothing here; VerifyConnection checks what
// the standard check is skipped for, and more.
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
				return fmt.Errorf("the node there is %s, not %s", found, node)
			case state.NegotiatedProtocol != protocol:
				return fmt.Errorf("%s does not speak %s", node, protocol)
			}
			return nil
		},
	}
}

// serverConfig chooses by what is asked for. Tickets are off everywhere: a resumed session
// would be of a node that was a member when it got the ticket.
func (p *Peer) serverConfig() *tls.Config {
	join := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ProtocolJoin},
		Certificates:           []tls.Certificate{p.id.Certificate()},
		SessionTicketsDisabled: true,
	}
	members := join.Clone()
	members.NextProtos = p.protocols()
	members.ClientAuth = tls.RequireAnyClientCert // VerifyConnection judges it
	members.VerifyConnection = func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol == "" {
			return errors.New("no protocol was asked for")
		}
		_, err := p.verify(state, x509.ExtKeyUsageClientAuth)
		return err
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

// verify says which member the far end is, within the handshake.
func (p *Peer) verify(state tls.ConnectionState, usage x509.ExtKeyUsage) (node string, err error) {
	if len(state.PeerCertificates) == 0 {
		return "", errors.New("no certificate")
	}
	cert := state.PeerCertificates[0]
	node, err = checkChain(cert, p.id.authority.root, usage)
	if err != nil {
		return "", err
	}
	return node, p.nodes.Check(node, cert.RawSubjectPublicKeyInfo)
}
