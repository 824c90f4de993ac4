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

// An exchange makes a session over a stream, whose handshake has proven both nodes. Each
// sends one hello:
//
//	|   version 1   |     form      |            zero               |
//	|                        receiver index                         |
//
// Both must have the same form; if not, both say so and there is no session. In that of VXLAN
// the keys are of no use, and a session says only that the far node expects its datagrams.
//
// The keys come from the handshake and never cross the wire: the exporter's first half is
// for datagrams of the node that asked, the second for those of the one that answered (RFC
// 8446 §7.5). A node is ready to receive before it tells its index, so nothing is lost
// when the far end begins to use it.
//
// The stream then stays, with a byte now and then. Its end says that the far end has
// restarted, or wants other keys, or cannot be reached; whoever asked asks anew.
const (
	exporterLabel = "EXPORTER-palisade-tunnel-1"
	helloLen      = 8

	helloTimeout = 5 * time.Second
	pingEvery    = 5 * time.Second
	deafAfter    = 3 * pingEvery
	stableAfter  = 5 * time.Second // a stream that stood so long was none of a series of failures
	firstRetry   = 50 * time.Millisecond
	lastRetry    = 2 * time.Second

	// maxExchanges bounds those that others have begun and not ended; more are refused.
	maxExchanges = 64
)

// runDial keeps a session with a node whose name sorts behind this one's.
func (o *Overlay) runDial(f *far) {
	defer f.end()
	retry := firstRetry
	for f.ctx.Err() == nil {
		began := time.Now()
		o.failed(f, o.dial(f))
		if time.Since(began) > stableAfter {
			retry = firstRetry
		}
		select {
		case <-time.After(retry):
		case <-f.ctx.Done():
		}
		retry = min(2*retry, lastRetry)
	}
}

func (o *Overlay) dial(f *far) error {
	ctx, cancel := context.WithTimeout(f.ctx, helloTimeout)
	conn, err := o.config.Peer.Dial(ctx, f.Node, peer.ProtocolTunnel)
	cancel()
	if err != nil {
		return err
	}
	return o.keep(f, conn, asks, func() {})
}

// failed notes why there is no stream.
func (o *Overlay) failed(f *far, err error) {
	problem := "the stream has ended"
	if err != nil {
		problem = err.Error()
	}
	o.mu.Lock()
	changed := f.problem != problem
	f.problem = problem
	o.mu.Unlock()
	if err != nil && changed && f.ctx.Err() == nil {
		o.log.Warn("the stream for tunnel keys is down", "node", f.Node, "err", err)
	}
}

// unanswered is failed for a stream that the far node began.
func (o *Overlay) unanswered(f *far, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.stream == nil {
		f.problem = err.Error()
	}
}

// runAccept answers the nodes whose names sort before this one's.
func (o *Overlay) runAccept(ctx context.Context) error {
	slots := make(chan struct{}, maxExchanges)
	for {
		accepted, err := o.listener.Accept()
		if err != nil {
			return err
		}
		conn := accepted.(*peer.Conn)
		f := o.whoAsks(conn.Node())
		if f == nil {
			_ = conn.Close() // no peer, or not yet: it will ask again
			continue
		}
		select {
		case slots <- struct{}{}:
			o.work.Go(func() {
				if err := o.keep(f, conn, answers, func() { <-slots }); err != nil && ctx.Err() == nil {
					o.unanswered(f, err)
					o.log.Debug("a stream for tunnel keys has ended", "node", f.Node, "err", err)
				}
			})
		default:
			_ = conn.Close()
		}
	}
}

func (o *Overlay) whoAsks(node string) *far {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.far[node]
	if f == nil || f.ctx == nil {
		return nil
	}
	return f
}

type role bool

const (
	asks    role = false
	answers role = true
)

// keep makes a session over a stream, and returns when the stream has ended. It calls
// exchanged in between.
func (o *Overlay) keep(f *far, conn *peer.Conn, r role, exchanged func()) error {
	defer conn.Close()
	stop := context.AfterFunc(f.ctx, func() { _ = conn.Close() }) // ends what waits
	defer stop()
	err := o.exchange(f, conn, r)
	exchanged()
	if err != nil {
		return fmt.Errorf("exchange keys with %s: %w", f.Node, err)
	}
	defer o.streamEnded(f, conn)
	return watch(conn, r)
}

func (o *Overlay) exchange(f *far, conn *peer.Conn, r role) error {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	s, err := o.newSession(f, conn, r)
	if err != nil {
		return err
	}
	if r == answers {
		if err := s.readHello(conn, o.config.Form); err != nil {
			return errors.Join(err, s.writeHello(conn, o.config.Form)) // it tells the far node
		}
	}
	if err := o.expect(f, s); err != nil {
		return err
	}
	if err := s.writeHello(conn, o.config.Form); err != nil {
		return errors.Join(err, o.forget(f, s))
	}
	if r == asks {
		if err := s.readHello(conn, o.config.Form); err != nil {
			return errors.Join(err, o.forget(f, s))
		}
	}
	return o.use(f, s, conn)
}

// newSession takes the keys out of a stream, if its far end is the peer that is meant: a
// name may have passed to another since the stream's handshake.
func (o *Overlay) newSession(f *far, conn *peer.Conn, r role) (*session, error) {
	state := conn.ConnectionState()
	if len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].RawSubjectPublicKeyInfo, f.PublicKey) {
		return nil, errors.New("its certificate is for another key than the cluster knows")
	}
	keys, err := state.ExportKeyingMaterial(exporterLabel, nil, 2*keyLen)
	if err != nil {
		return nil, err
	}
	ours, theirs := keys[:keyLen], keys[keyLen:]
	if r == answers {
		ours, theirs = theirs, ours
	}
	s, err := newSession(ours, theirs)
	if err != nil {
		return nil, err
	}
	s.node, s.address, s.to = f.Number, f.Address, newSockaddr(f.Address)
	return s, nil
}

func (s *session) writeHello(w io.Writer, f Form) error {
	var b [helloLen]byte
	b[0], b[1] = version, byte(f)
	binary.BigEndian.PutUint32(b[4:], s.index)
	_, err := w.Write(b[:])
	return err
}

func (s *session) readHello(r io.Reader, own Form) error {
	var b [helloLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	if b[0] != version || b[2] != 0 || b[3] != 0 || int(b[1]) >= len(forms) {
		return fmt.Errorf("its hello is of version %d, this node's of %d", b[0], version)
	}
	if far := Form(b[1]); far != own {
		return fmt.Errorf("its tunnels are %v, this node's %v; all nodes of a cluster must have the same", far, own)
	}
	s.farIndex = binary.BigEndian.Uint32(b[4:])
	return nil
}

var errNoPeer = errors.New("it is no peer any more")

// expect gives a session its index and begins to receive by it.
func (o *Overlay) expect(f *far, s *session) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.far[f.Node] != f {
		return errNoPeer
	}
	taken := o.table.Load().receive
	for s.index == 0 || taken[s.index] != nil {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails
		s.index = binary.BigEndian.Uint32(b[:])
	}
	if len(f.sessions) >= maxSessions {
		oldest := slices.IndexFunc(f.sessions, func(s *session) bool { return s != f.current })
		f.sessions = slices.Delete(f.sessions, oldest, oldest+1)
	}
	f.sessions = append(f.sessions, s)
	o.publishLocked()
	return nil
}

// forget takes back a session that did not come about.
func (o *Overlay) forget(f *far, s *session) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	f.sessions = slices.DeleteFunc(f.sessions, func(other *session) bool { return other == s })
	o.publishLocked()
	return nil
}

// use sends by a session from now on.
func (o *Overlay) use(f *far, s *session, conn *peer.Conn) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.far[f.Node] != f {
		return errNoPeer
	}
	if f.current != nil {
		f.current.replaced = time.Now()
	}
	if f.stream != nil {
		_ = f.stream.Close()
	}
	f.current, f.stream, f.problem = s, conn, ""
	o.publishLocked()
	return nil
}

func (o *Overlay) streamEnded(f *far, conn *peer.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.stream == conn {
		f.stream, f.problem = nil, "the stream has ended"
	}
}

// watch returns when a stream has ended, or its session has been used long enough.
func watch(conn net.Conn, r role) error {
	began := time.Now()
	heard, next := began, began.Add(pingEvery)
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
		if n > 0 {
			heard = now
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case now.Sub(heard) >= deafAfter:
			return fmt.Errorf("nothing was heard for %v", now.Sub(heard).Round(time.Second))
		case r == asks && now.Sub(began) >= rekeyEvery:
			return nil
		}
		if _, err := conn.Write([]byte{0}); err != nil {
			return err
		}
		next = now.Add(pingEvery)
	}
}
