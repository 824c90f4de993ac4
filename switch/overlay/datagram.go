package overlay

import (
	"encoding/binary"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
)

// A datagram is a header, which anybody can read and nobody can change, and a sealed frame behind a
// Geneve header (RFC 8926 §3.4, §3.5):
//
//	 0                   1                   2                   3
//	|   version 1   |     marks     |            zero               |
//	|                        receiver index                         |
//	|     queue     |                                               |
//	+-+-+-+-+-+-+-+-+           counter                             +
//	|                                                               |
//	+===============================================================+
//	|Ver|  Opt Len  |O|C|   zero    |           0x6558              |
//	|                      VNI                      |     zero      |
//	|            0xff50             |     0x81      |  0  |    2    |  source interface
//	|                                                               |
//	+                         lease epoch                           +
//	|                                                               |
//	|                            frame                              |
//	+===============================================================+
//	|                       16 bytes of seal                        |
//
// The receiver index is the number that the receiver gave to the association, and so selects the
// keys. Queue and counter are the nonce: the queues of one sender share no counter and never use a
// nonce twice, so they need no keys of their own. The marks are packet.Marks: whether the transport
// checksum of the packet was left out, and whether its frame continues in the next datagram of the
// queue. The option class is an experimental one, and the option is critical: a receiver that does
// not know it drops the frame.
//
// A frame that consists of several packets is cut, and each packet is a datagram. All but the last
// have the same size, so UDP_SEGMENT sends them in one system call and UDP_GRO receives them in one.
// The receiver joins the packets again as far as their headers allow; no virtio header is on the
// wire.
const (
	version         = 1
	headerLen       = 16
	tagLen          = 16
	geneveLen       = 8
	optionHeader    = 4
	sourceOptionLen = optionHeader + 8
	innerLen        = geneveLen + sourceOptionLen // the bytes that are sealed before the frame

	optionClass  = 0xff50
	critical     = 0x80
	sourceOption = critical | 1

	ethernetBridged = 0x6558 // RFC 8926 §3.4: an Ethernet frame follows
)

// counterBits is the number of low bits of the nonce that hold the counter; the bits above hold the
// queue.
const counterBits = 56

const knownMarks = packet.Unfinished | packet.Followed

func putHeader(b []byte, marks packet.Marks, index uint32, counter uint64) {
	binary.BigEndian.PutUint32(b, version<<24|uint32(marks)<<16)
	binary.BigEndian.PutUint32(b[4:], index)
	binary.BigEndian.PutUint64(b[8:], counter)
}

// A header is the unsealed part of a datagram. Until the seal is open nothing proves who wrote it.
type header struct {
	marks   packet.Marks
	index   uint32
	queue   uint64
	counter uint64 // the queue's counter
}

func readHeader(b []byte) (h header, ok bool) {
	failpoint.Reach()
	if len(b) < headerLen+innerLen+tagLen || b[0] != version || b[1]&^byte(knownMarks) != 0 || b[2] != 0 || b[3] != 0 {
		return h, false
	}
	nonce := binary.BigEndian.Uint64(b[8:])
	h.marks, h.index = packet.Marks(b[1]), binary.BigEndian.Uint32(b[4:])
	h.queue, h.counter = nonce>>counterBits, nonce&(1<<counterBits-1)
	return h, h.queue < queues
}

// putInner writes the inner header, which is sealed before the frame.
func putInner(b []byte, from packet.Origin) {
	failpoint.Reach()
	b[0], b[1] = sourceOptionLen/4, 0x40 // version 0; there are critical options
	binary.BigEndian.PutUint16(b[2:], ethernetBridged)
	binary.BigEndian.PutUint32(b[4:], from.VNI<<8)
	putOption(b[geneveLen:], sourceOption, sourceOptionLen)
	binary.BigEndian.PutUint64(b[geneveLen+optionHeader:], from.Epoch)
}

func putOption(b []byte, kind byte, length int) {
	binary.BigEndian.PutUint16(b, optionClass)
	b[2], b[3] = kind, byte(length-optionHeader)/4
}

// readInner reads the inner header into from and returns the frame; false if the header is not
// valid. A node of the cluster wrote the header, but that node may have another version, or may
// have been taken over.
func readInner(b []byte, from *packet.Origin) (frame []byte, ok bool) {
	failpoint.Reach()
	if len(b) < geneveLen || b[0]>>6 != 0 || b[1]&0x80 != 0 || binary.BigEndian.Uint16(b[2:]) != ethernetBridged {
		return nil, false
	}
	end := geneveLen + int(b[0]&0x3f)*4
	if end > len(b) {
		return nil, false
	}
	from.VNI = binary.BigEndian.Uint32(b[4:]) >> 8
	found := false
	for options := b[geneveLen:end]; len(options) > 0; {
		if len(options) < optionHeader {
			return nil, false
		}
		n := optionHeader + int(options[3]&0x1f)*4
		if n > len(options) {
			return nil, false
		}
		body, kind := options[optionHeader:n], options[2]
		switch ours := binary.BigEndian.Uint16(options) == optionClass; {
		case ours && kind == sourceOption && len(body) == 8 && !found:
			from.Epoch, found = binary.BigEndian.Uint64(body), true
		case kind&critical != 0:
			return nil, false
		}
		options = options[n:]
	}
	return b[end:], found
}
