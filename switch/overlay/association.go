package overlay

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"palisade/internal/failpoint"
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
	// single: the way to the far node takes no several datagrams at once.
	single atomic.Bool

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

// next is the nonce of the queue's next datagram; 0 if they are used up.
func (s *session) next(queue int) uint64 {
	counter := s.sent[queue].counter.Add(1)
	if counter>>counterBits != 0 {
		return 0
	}
	return counter | uint64(queue)<<counterBits
}

// sealPacket makes a datagram of what stands behind room for a header in b: an inner header
// and a frame. dst is where it goes: b itself, or memory apart from it. It returns the
// datagram; nil if the queue's nonces are used up.
func (s *session) sealPacket(dst, plain []byte, nonce *[12]byte, queue int, marks packet.Marks) []byte {
	failpoint.Reach()
	counter := s.next(queue)
	if counter == 0 {
		return nil
	}
	putHeader(dst[:headerLen], marks, s.farIndex, counter)
	binary.BigEndian.PutUint64(nonce[4:], counter)
	return dst[:headerLen+len(s.seal.Seal(dst[headerLen:headerLen], nonce[:], plain, dst[:headerLen]))]
}

// openPacket opens a datagram into dst and returns what was sealed.
func (s *session) openPacket(dst, datagram []byte, nonce *[12]byte) ([]byte, bool) {
	failpoint.Reach()
	copy(nonce[4:], datagram[8:headerLen])
	inner, err := s.open.Open(dst[:0], nonce[:], datagram[headerLen:], datagram[:headerLen])
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
	failpoint.Reach()
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
