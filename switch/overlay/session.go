package overlay

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"palisade/internal/packet"
)

// queues is how many senders a node has, each with a counter of its own.
const queues = 64

// A session is the keys between this node and another.
//
// Each queue's counter belongs to the poller that has the queue, and the replay windows to
// the one that receives; the rest does not change once the session is in a table, but for
// replaced, which the Overlay's mutex guards.
type session struct {
	node     uint32 // number of the far node
	address  netip.AddrPort
	to       sockaddr
	index    uint32 // of datagrams to this node
	farIndex uint32 // of datagrams to the far one
	seal     cipher.AEAD
	open     cipher.AEAD
	begun    time.Time
	replaced time.Time // zero: it is in force

	sent [queues]struct {
		counter atomic.Uint64
		_       [56]byte // a cache line each
	}
	seen [queues]window
}

// keyLen is that of AES-128: the handshake that the keys come from is no stronger.
const keyLen = 16

func newSession(sealKey, openKey []byte) (*session, error) {
	s := &session{begun: time.Now()}
	var err error
	if s.seal, err = newAEAD(sealKey); err != nil {
		return nil, err
	}
	s.open, err = newAEAD(openKey)
	return s, err
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key of a session: %w", err)
	}
	return cipher.NewGCM(block)
}

// A scratch is where a queue seals, and where the socket's reader opens. The nonce is part
// of it because it would be allocated where it is used.
type scratch struct {
	b     [1 << 16]byte
	nonce [12]byte
}

// sealFrame makes a datagram of a frame in q and returns its length; 0 if the queue's
// nonces are used up, or the frame is longer than any datagram.
func (s *session) sealFrame(q *scratch, queue int, from packet.Origin, frame []byte) int {
	counter := s.sent[queue].counter.Add(1)
	n := headerLen + innerLen + len(frame)
	if counter>>counterBits != 0 || n+tagLen > len(q.b) {
		return 0
	}
	counter |= uint64(queue) << counterBits
	putHeader(q.b[:], s.farIndex, counter)
	putInner(q.b[headerLen:], from)
	copy(q.b[headerLen+innerLen:], frame)
	binary.BigEndian.PutUint64(q.nonce[4:], counter)
	return headerLen + len(s.seal.Seal(q.b[headerLen:headerLen], q.nonce[:], q.b[headerLen:n], q.b[:headerLen]))
}

// openFrame opens a datagram of n bytes in place and returns what was sealed.
func (s *session) openFrame(q *scratch, n int, counter uint64) ([]byte, bool) {
	binary.BigEndian.PutUint64(q.nonce[4:], counter)
	inner, err := s.open.Open(q.b[headerLen:headerLen], q.nonce[:], q.b[headerLen:n], q.b[:headerLen])
	return inner, err == nil
}

// A window knows which of the last counters of one queue were received, so that each is
// taken once (RFC 6479: blocks of a ring; moving on clears whole blocks).
type window struct {
	newest uint64
	blocks [windowBlocks]uint64
}

const (
	windowBlocks = 32
	windowSize   = (windowBlocks - 1) * 64 // counters behind the newest
)

// take reports whether a counter has not been taken before, and takes it. What is older
// than the window counts as taken.
func (w *window) take(counter uint64) bool {
	block := counter / 64
	if counter > w.newest {
		first := w.newest/64 + 1
		for b := max(first, block-min(block, windowBlocks-1)); b <= block; b++ {
			w.blocks[b%windowBlocks] = 0
		}
		w.newest = counter
	} else if w.newest-counter >= windowSize {
		return false
	}
	bit := uint64(1) << (counter % 64)
	if w.blocks[block%windowBlocks]&bit != 0 {
		return false
	}
	w.blocks[block%windowBlocks] |= bit
	return true
}
