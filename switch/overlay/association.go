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

// queues is how many send queues a node has. Each has a counter of its own.
const queues = 64

// An association is the keys between this node and another, one for each direction.
//
// Each queue's counter is used only by the poller that has the queue, and the replay windows only
// by the poller of the tunnel's port. Overlay.mu guards replaced; single and mtu are atomic. The other
// fields do not change once the association is in a table.
type association struct {
	node        uint32 // number of the remote node
	address     netip.AddrPort
	to          sockaddr
	index       uint32 // in the headers of received datagrams
	remoteIndex uint32 // in the headers of sent datagrams
	seal        cipher.AEAD
	open        cipher.AEAD
	begun       time.Time
	epoch       uint64    // of Overlay.Renew, when its keys were exchanged
	replaced    time.Time // when a newer association replaced it; zero if none has
	// single: the kernel cannot send several datagrams at once to the node.
	single atomic.Bool
	mtu    atomic.Int32 // bytes of the largest IP packet that the remote node takes; 0: it named none

	sent [queues]struct {
		counter atomic.Uint64
		_       [56]byte // gives each counter a cache line of its own
	}
	seen [queues]window
}

// keyLen is the key length of AES-128. The TLS handshake that the keys come from is no stronger.
const keyLen = 16

func newAssociation(sealKey, openKey []byte) (*association, error) {
	s := &association{begun: time.Now()}
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
		return nil, fmt.Errorf("key of a tunnel: %w", err)
	}
	return cipher.NewGCM(block)
}

// next returns the nonce of the queue's next datagram; 0 if the queue has used all its nonces.
func (s *association) next(queue int) uint64 {
	counter := s.sent[queue].counter.Add(1)
	if counter>>counterBits != 0 {
		return 0
	}
	return counter | uint64(queue)<<counterBits
}

// sealPacket seals plain, an inner header and a frame, and returns the datagram; nil if the queue
// has used all its nonces. It writes the datagram to dst. dst must not overlap plain, or must begin
// headerLen bytes before it.
func (s *association) sealPacket(dst, plain []byte, nonce *[12]byte, queue int, marks packet.Marks) []byte {
	failpoint.Reach()
	counter := s.next(queue)
	if counter == 0 {
		return nil
	}
	putHeader(dst[:headerLen], marks, s.remoteIndex, counter)
	binary.BigEndian.PutUint64(nonce[4:], counter)
	return dst[:headerLen+len(s.seal.Seal(dst[headerLen:headerLen], nonce[:], plain, dst[:headerLen]))]
}

// openPacket opens a datagram into dst and returns the sealed content; false if the seal is wrong.
func (s *association) openPacket(dst, datagram []byte, nonce *[12]byte) ([]byte, bool) {
	failpoint.Reach()
	copy(nonce[4:], datagram[8:headerLen])
	inner, err := s.open.Open(dst[:0], nonce[:], datagram[headerLen:], datagram[:headerLen])
	return inner, err == nil
}

// A window records which of the last counters of one queue were received, so that each counter is
// accepted once (RFC 6479: blocks in a ring; moving forward clears whole blocks).
type window struct {
	newest uint64
	blocks [windowBlocks]uint64
}

const (
	windowBlocks = 32
	windowSize   = (windowBlocks - 1) * 64 // how many counters before the newest the window covers
)

// take records a counter as received and reports whether it is new. A counter older than the window
// counts as received.
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
