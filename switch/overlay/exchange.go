package overlay

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"palisade/internal/peer"
)

// A key exchange makes an association over a stream, whose TLS handshake has authenticated both
// nodes. Each node sends one hello:
//
//	|   version 1   |     form      |            zero               |
//	|                        receiver index                         |
//
// Both must have the same form; otherwise both report it and there is no association. VXLAN does not
// use the keys: an association then means only that the remote node accepts this node's datagrams.
//
// The keys come from the handshake and never cross the wire: the first half of the exporter's output
// seals the datagrams of the initiator, the second those of the responder (RFC 8446 §7.5). A node
// can receive before it sends its index, so no datagram is lost when the remote node begins to send.
//
// The stream stays open, and both nodes send a zero byte at intervals. It ends when a node restarts, wants
// new keys or cannot be reached; then the initiator begins a new exchange. Right after its hello a node
// tells the MTU of its underlay, less the overhead of a datagram; earlier releases ignore these bytes, as
// all that follows the hello:
//
//	|   notice 1    |              MTU              |
const (
	exporterLabel = "EXPORTER-palisade-tunnel-1"
	helloLen      = 8
	mtuNotice     = 1 // the first byte of a notice
	mtuNoticeLen  = 3
	minMTU        = 576 // every host takes such a packet (RFC 791 §3.1)
	maxMTU        = 65535

	helloTimeout = 5 * time.Second
	pingInterval = 5 * time.Second
	silenceLimit = 3 * pingInterval
	stableTime   = 5 * time.Second // after a stream that lasted longer, the next retry waits only for minRetry
	minRetry     = 50 * time.Millisecond
	maxRetry     = 2 * time.Second

	// maxExchanges is the largest number of unfinished exchanges that other nodes have begun.
	// Further streams are closed.
	maxExchanges = 64
)

// runDial keeps up an association with a node whose name sorts after this node's, until that is no
// peer any more.
func (o *Overlay) runDial(p *remotePeer) {
	defer p.end()
	retry := minRetry
	for p.ctx.Err() == nil {
		began := time.Now()
		o.dialFailed(p, o.dial(p))
		if time.Since(began) > stableTime {
			retry = minRetry
		}
		select {
		case <-time.After(retry):
		case <-p.ctx.Done():
		}
		retry = min(2*retry, maxRetry)
	}
}

func (o *Overlay) dial(p *remotePeer) error {
	ctx, cancel := context.WithTimeout(p.ctx, helloTimeout)
	conn, err := o.config.Peer.Dial(ctx, p.Node, peer.ProtocolTunnel)
	cancel()
	if err != nil {
		return err
	}
	return o.runStream(p, conn, initiator, func() {})
}

// dialFailed notes why there is no stream to a node, and logs the reason if it is new. A nil err
// means that the stream has ended regularly.
func (o *Overlay) dialFailed(p *remotePeer, err error) {
	problem := "the stream has ended"
	if err != nil {
		problem = err.Error()
	}
	o.mu.Lock()
	changed := p.problem != problem
	p.problem = problem
	o.mu.Unlock()
	if err != nil && changed && p.ctx.Err() == nil {
		o.log.Warn("stream for tunnel keys ended", "node", p.Node, "err", err)
	}
}

// acceptFailed notes why a stream that the remote node opened has failed.
func (o *Overlay) acceptFailed(p *remotePeer, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p.stream == nil {
		p.problem = err.Error()
	}
}

// runAccept accepts streams from the nodes whose names sort before this node's.
func (o *Overlay) runAccept(ctx context.Context) error {
	slots := make(chan struct{}, maxExchanges)
	for {
		accepted, err := o.listener.Accept()
		if err != nil {
			return err
		}
		conn := accepted.(*peer.Conn)
		p := o.peerNamed(conn.Node())
		if p == nil {
			_ = conn.Close() // the node is no peer, or not yet; it will dial again
			continue
		}
		select {
		case slots <- struct{}{}:
			o.work.Go(func() {
				if err := o.runStream(p, conn, responder, func() { <-slots }); err != nil && ctx.Err() == nil {
					o.acceptFailed(p, err)
					o.log.Debug("stream for tunnel keys ended", "node", p.Node, "err", err)
				}
			})
		default:
			_ = conn.Close()
		}
	}
}

func (o *Overlay) peerNamed(node string) *remotePeer {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.peers[node]
	if p == nil || p.ctx == nil {
		return nil
	}
	return p
}

// A role is a node's part in a key exchange.
type role bool

const (
	initiator role = false
	responder role = true
)

// runStream exchanges keys over a stream, and returns when the stream has ended. It calls exchanged
// as soon as the exchange has succeeded or failed.
func (o *Overlay) runStream(p *remotePeer, conn *peer.Conn, r role, exchanged func()) error {
	defer conn.Close()
	stop := context.AfterFunc(p.ctx, func() { _ = conn.Close() }) // ends reads and writes
	defer stop()
	s, err := o.exchange(p, conn, r)
	exchanged()
	if err != nil {
		return fmt.Errorf("exchange keys with %s: %w", p.Node, err)
	}
	defer o.endStream(p, conn)
	return s.watchStream(conn, r)
}

func (o *Overlay) exchange(p *remotePeer, conn *peer.Conn, r role) (*association, error) {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, err
	}
	s, err := o.newAssociation(p, conn, r)
	if err != nil {
		return nil, err
	}
	if r == responder {
		if err := s.readHello(conn, o.config.Form); err != nil {
			return nil, errors.Join(err, s.writeHello(conn, &o.config)) // this node's hello tells the remote node why
		}
	}
	if err := o.startReceiving(p, s); err != nil {
		return nil, err
	}
	if err := s.writeHello(conn, &o.config); err != nil {
		return nil, errors.Join(err, o.discard(p, s))
	}
	if r == initiator {
		if err := s.readHello(conn, o.config.Form); err != nil {
			return nil, errors.Join(err, o.discard(p, s))
		}
	}
	return s, o.startSending(p, s, conn)
}

// newAssociation returns an association with keys from a stream. It fails if the key in the
// stream's certificate is not the peer's: the name may have passed to another node since the
// handshake.
func (o *Overlay) newAssociation(p *remotePeer, conn *peer.Conn, r role) (*association, error) {
	state := conn.ConnectionState()
	if len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].RawSubjectPublicKeyInfo, p.PublicKey) {
		return nil, errors.New("its certificate has another key than the cluster knows")
	}
	keys, err := state.ExportKeyingMaterial(exporterLabel, nil, 2*keyLen)
	if err != nil {
		return nil, err
	}
	sealKey, openKey := keys[:keyLen], keys[keyLen:]
	if r == responder {
		sealKey, openKey = openKey, sealKey
	}
	s, err := newAssociation(sealKey, openKey)
	if err != nil {
		return nil, err
	}
	s.node, s.address, s.to = p.Number, p.Address, newSockaddr(p.Address)
	o.mu.Lock()
	s.epoch = o.epoch
	o.mu.Unlock()
	return s, nil
}

// writeHello writes this node's hello and, if it tells one, its MTU.
func (s *association) writeHello(w io.Writer, own *Config) error {
	var b [helloLen + mtuNoticeLen]byte
	b[0], b[1] = version, byte(own.Form)
	binary.BigEndian.PutUint32(b[4:], s.index)
	b[helloLen] = mtuNotice
	binary.BigEndian.PutUint16(b[helloLen+1:], uint16(own.MTU))
	n := len(b)
	if own.MTU == 0 {
		n = helloLen
	}
	_, err := w.Write(b[:n])
	return err
}

func (s *association) readHello(r io.Reader, own Form) error {
	var b [helloLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	if b[0] != version || b[2] != 0 || b[3] != 0 || int(b[1]) >= len(forms) {
		return fmt.Errorf("its hello is of version %d, this node's of %d", b[0], version)
	}
	if other := Form(b[1]); other != own {
		return fmt.Errorf("its tunnels are %v, this node's %v; all nodes of a cluster must have the same", other, own)
	}
	s.remoteIndex = binary.BigEndian.Uint32(b[4:])
	return nil
}

var errNoPeer = errors.New("the node is no peer any more")

// startReceiving gives an association its index and adds it to those that this node receives on. It
// returns errNoPeer if p has been removed or replaced.
func (o *Overlay) startReceiving(p *remotePeer, s *association) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.peers[p.Node] != p {
		return errNoPeer
	}
	taken := o.table.Load().receive
	for s.index == 0 || taken[s.index] != nil {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails
		s.index = binary.BigEndian.Uint32(b[:])
	}
	if len(p.associations) >= maxAssociations {
		oldest := slices.IndexFunc(p.associations, func(s *association) bool { return s != p.current })
		p.associations = slices.Delete(p.associations, oldest, oldest+1)
	}
	p.associations = append(p.associations, s)
	o.publishLocked()
	return nil
}

// discard removes an association whose exchange failed.
func (o *Overlay) discard(p *remotePeer, s *association) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	p.associations = slices.DeleteFunc(p.associations, func(other *association) bool { return other == s })
	o.publishLocked()
	return nil
}

// startSending makes s the association that this node sends on. It returns errNoPeer if p has been
// removed or replaced.
func (o *Overlay) startSending(p *remotePeer, s *association, conn *peer.Conn) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.peers[p.Node] != p {
		return errNoPeer
	}
	if p.current != nil {
		p.current.replaced = time.Now()
		s.mtu.CompareAndSwap(0, p.current.mtu.Load()) // until the node has told it again
	}
	if p.stream != nil {
		_ = p.stream.Close()
	}
	p.current, p.stream, p.problem = s, conn, ""
	o.publishLocked()
	if s.epoch < o.epoch { // Renew was called during the exchange
		_ = conn.Close()
	}
	return nil
}

func (o *Overlay) endStream(p *remotePeer, conn *peer.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p.stream == conn {
		p.stream, p.problem = nil, "the stream has ended"
	}
}

// A noticeReader reads what follows the hello in a stream, piece by piece.
type noticeReader struct {
	b [mtuNoticeLen]byte
	n int // how many bytes of a notice were read
}

// read reads the next bytes, and stores the remote node's MTU in s if they complete its notice. A value that
// no link has is ignored.
func (r *noticeReader) read(b []byte, s *association) {
	for _, c := range b {
		if r.n == 0 && c != mtuNotice {
			continue
		}
		r.b[r.n] = c
		if r.n++; r.n < mtuNoticeLen {
			continue
		}
		r.n = 0
		if mtu := binary.BigEndian.Uint16(r.b[1:]); mtu >= minMTU {
			s.mtu.Store(int32(mtu))
		}
	}
}

// watchStream returns nil when a stream has ended or its association must be renewed, and an error
// when the stream has failed or is silent.
func (s *association) watchStream(conn net.Conn, r role) error {
	var notice noticeReader
	began := time.Now()
	received, next := began, began.Add(pingInterval)
	var b [64]byte
	for {
		if err := conn.SetDeadline(next.Add(helloTimeout)); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(next); err != nil {
			return err
		}
		n, err := conn.Read(b[:])
		now := time.Now()
		notice.read(b[:n], s)
		if n > 0 {
			received = now
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case now.Sub(received) >= silenceLimit:
			return fmt.Errorf("nothing was received for %v", now.Sub(received).Round(time.Second))
		case r == initiator && now.Sub(began) >= rekeyInterval:
			return nil
		}
		if _, err := conn.Write([]byte{0}); err != nil {
			return err
		}
		next = now.Add(pingInterval)
	}
}
