package overlay

import (
	"encoding/binary"

	"palisade/internal/packet"
)

// A datagram is a header, which anybody can read and nobody change, and a sealed frame
// behind a Geneve header (RFC 8926 §3.4, §3.5):
//
//	 0                   1                   2                   3
//	|   version 1   |                 zero                          |
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
//	|            0xff50             |     0x82      |  0  |    3    |  offload, where the frame
//	|     flags     |   gso_type    |            hdr_len            |  stands for several packets:
//	|           gso_size            |          csum_start           |  virtio 1.2 §5.1.6, little-
//	|          csum_offset          |             zero              |  endian
//	|                            frame                              |
//	+===============================================================+
//	|                       16 bytes of seal                        |
//
// The receiver index is the receiver's own name for a session, and so for the keys. The
// queue and the counter behind it are the nonce, so that queues of one sender never use
// the same one twice and share nothing. The option class is one of those for experiments,
// and both options are critical: who does not know one does not take the frame.
const (
	version         = 1
	headerLen       = 16
	tagLen          = 16
	geneveLen       = 8
	optionHeader    = 4
	sourceOptionLen = optionHeader + 8
	innerLen        = geneveLen + sourceOptionLen // what a sender puts before a frame

	optionClass   = 0xff50
	critical      = 0x80
	sourceOption  = critical | 1
	offloadOption = critical | 2

	ethernetBridged = 0x6558 // RFC 8926 §3.4: an Ethernet frame follows
)

// counterBits is how much of the nonce counts; the rest is the queue.
const counterBits = 56

func putHeader(b []byte, index uint32, counter uint64) {
	binary.BigEndian.PutUint32(b, version<<24)
	binary.BigEndian.PutUint32(b[4:], index)
	binary.BigEndian.PutUint64(b[8:], counter)
}

// readHeader reads what stands before the seal. It says nothing of who wrote it.
func readHeader(b []byte) (index uint32, counter uint64, ok bool) {
	if len(b) < headerLen+geneveLen+sourceOptionLen+tagLen || binary.BigEndian.Uint32(b) != version<<24 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]), true
}

// putInner writes what stands before the frame inside the seal.
func putInner(b []byte, from packet.Origin) {
	b[0], b[1] = sourceOptionLen/4, 0x40 // version 0; critical options are there
	binary.BigEndian.PutUint16(b[2:], ethernetBridged)
	binary.BigEndian.PutUint32(b[4:], from.VNI<<8)
	putOption(b[geneveLen:], sourceOption, sourceOptionLen)
	binary.BigEndian.PutUint64(b[geneveLen+optionHeader:], from.Epoch)
}

func putOption(b []byte, kind byte, length int) {
	binary.BigEndian.PutUint16(b, optionClass)
	b[2], b[3] = kind, byte(length-optionHeader)/4
}

// readInner reads what was inside the seal. A node of the cluster wrote it, of this version
// or another, sound or broken into. The offload header it leaves in offload is for
// packet.Sanitize to judge.
func readInner(b []byte, from *packet.Origin, offload []byte) (frame []byte, ok bool) {
	clear(offload[:packet.OffloadLen])
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
		case ours && kind == offloadOption && len(body) == 12:
			readOffload(offload, body)
		case kind&critical != 0:
			return nil, false
		}
		options = options[n:]
	}
	return b[end:], found
}

// readOffload turns the wire's byte order into the processor's, which the header has on
// its way to a device.
func readOffload(offload, b []byte) {
	offload[0], offload[1] = b[0], b[1]
	for at := 2; at < packet.OffloadLen; at += 2 {
		binary.NativeEndian.PutUint16(offload[at:], binary.LittleEndian.Uint16(b[at:]))
	}
}
