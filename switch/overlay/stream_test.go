package overlay

import (
	"encoding/binary"
	"slices"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	vswitch "palisade/switch"
)

// Dice make the choices of a fuzz target from its input. When the input is used up, every choice is
// the first one.
type dice struct{ rest []byte }

func (d *dice) empty() bool { return len(d.rest) == 0 }

func (d *dice) byte() byte {
	if len(d.rest) == 0 {
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

// below chooses a number from 0 to n-1.
func (d *dice) below(n int) int {
	if n <= 256 {
		return int(d.byte()) % n
	}
	return (int(d.byte())<<8 | int(d.byte())) % n
}

// once returns true in one of n cases.
func (d *dice) once(n int) bool { return d.below(n) == n-1 }

func pick[T any](d *dice, from ...T) T { return from[d.below(len(from))] }

// size chooses a length from 0 to most, short and almost longest ones more often.
func (d *dice) size(most int) int {
	switch d.below(4) {
	case 0:
		return min(most, d.below(16))
	case 1:
		return min(most, d.below(128))
	case 2:
		return max(0, most-d.below(16))
	}
	return d.below(most + 1)
}

// A volley is the frames that an instance, or the hosts behind an uplink, send at once.
type volley struct {
	node   int // 0 or 1
	host   string
	frames [][]byte // virtio header and frame
}

const acrossMTU = 1406

// addressOf returns the private or public address of an instance.
func addressOf(host string, public bool) string {
	for _, h := range acrossHosts {
		if h.name == host && public {
			return h.public
		} else if h.name == host {
			return h.private
		}
	}
	return host
}

// volley draws what one instance, or a host behind a node's uplink, sends: runs of frames of one
// flow, in which each frame differs a little from the previous one.
func (d *dice) volley() (v volley) {
	v.host = pick(d, "web", "web", "web", "app", "lone", "nat", "box", "uplink")
	if v.host == "uplink" {
		v.node = d.below(2)
	} else {
		v.node = siteOf(v.host)
	}
	for range 1 + d.below(4) {
		v.frames = append(v.frames, d.run(v.node, v.host)...)
	}
	if v.host == "uplink" {
		v.frames = slices.DeleteFunc(v.frames, func(b []byte) bool { return namesOther(v.node, b[packet.OffloadLen:]) })
	}
	return v
}

// namesOther reports whether a frame from outside is for a public address of the other node. Such
// frames are not sent, because the single node has that address too.
func namesOther(node int, frame []byte) bool {
	for _, h := range acrossHosts {
		if h.public == "" || int(h.node) == node+1 {
			continue
		}
		if public := addr(h.public).As4(); at(frame, 30, public) || at(frame, 38, public) {
			return true
		}
	}
	return false
}

func at(frame []byte, offset int, address [4]byte) bool {
	return len(frame) >= offset+4 && [4]byte(frame[offset:]) == address
}

// outside changes a frame into one from the internet to a public address of a node.
func (d *dice) outside(f *packettest.Frame, node int) {
	f.SrcMAC, f.DstMAC = macOf("router"), uplinkMAC
	f.Flow.Src = addr(pick(d, "203.0.113.25", "203.0.113.25", "198.51.100.7", "198.18.0.5", "127.0.0.1"))
	f.Flow.Dst = addr([]string{pick(d, "198.18.0.4", "198.18.0.7"), pick(d, "198.18.0.5", "198.18.0.8")}[node])
	if d.once(8) {
		f.DstMAC[0] |= d.byte()
	}
}

// run draws frames of one flow.
func (d *dice) run(node int, host string) (all [][]byte) {
	to := pick(d, "app", "app", "web", "box", "lone", "nat", "third")
	f := packettest.Frame{SrcMAC: macOf(host), DstMAC: vswitch.GatewayMAC, DontFragment: !d.once(4), FragID: uint16(d.below(3)), TCPFlags: packet.ACK}
	toPublic := d.once(6) && addressOf(to, true) != ""
	switch choice := d.below(16); {
	case host == "uplink":
		d.outside(&f, node)
	default:
		f.Flow.Src, f.Flow.Dst = addr(addressOf(host, false)), addr(addressOf(to, toPublic))
		d.misdirect(&f, to, choice)
	}
	f.Flow.SrcPort, f.Flow.DstPort = uint16(1000+d.below(3)), pick[uint16](d, 53, 54, 56, 60, 80, 8000, 99)
	if d.once(4) {
		f.Flow.SrcPort, f.Flow.DstPort = f.Flow.DstPort, f.Flow.SrcPort
	}
	f.Flow.Protocol = pick[uint8](d, packet.ProtocolUDP, packet.ProtocolUDP, packet.ProtocolTCP, packet.ProtocolICMP, 47, d.byte())
	switch d.below(9) {
	case 8:
		return [][]byte{d.bare(d.icmpError(f))}
	case 7:
		target := addr(pick(d, addressOf(to, false), "10.0.0.1"))
		if host == "uplink" {
			target = f.Flow.Dst
		}
		return [][]byte{d.bare(packettest.ARP(uint16(1+d.below(3)), pick(d, f.SrcMAC, macOf("third")), f.Flow.Src, target))}
	case 6:
		return d.fragments(f)
	case 5:
		return [][]byte{d.super(f)}
	}
	return d.flow(f)
}

// misdirect gives some frames an unused destination address, another sender's source address, or
// another receiver's MAC.
func (d *dice) misdirect(f *packettest.Frame, to string, choice int) {
	switch choice {
	case 15:
		f.Flow.Dst = addr(pick(d, "10.0.0.1", "10.10.0.99", "203.0.113.25", "224.0.0.1"))
	case 14:
		f.Flow.Src = addr(pick(d, "10.10.0.5", "10.10.0.9", "192.0.2.9", "198.18.0.4")) // not the sender's address
	case 13:
		f.DstMAC = macOf(pick(d, to, "box", "nat", "third"))
	}
}

// icmpError draws an ICMP error about a packet of the reverse flow, which may or may not have been
// sent.
func (d *dice) icmpError(f packettest.Frame) []byte {
	about := f
	about.Flow = packettest.Reverse(f.Flow)
	about.Payload = make([]byte, d.below(64))
	kind := pick[uint8](d, packet.ICMPUnreachable, packet.ICMPUnreachable, packet.ICMPTimeExceeded, packet.ICMPRedirect, packet.ICMPSourceQuench, d.byte())
	return packettest.ICMPError(kind, uint8(d.below(5)), f.Flow.Src, f.Flow.Dst, packettest.Build(about), f.SrcMAC, f.DstMAC)
}

// flow draws frames of one flow, in which each frame differs a little from the previous one.
func (d *dice) flow(f packettest.Frame) (all [][]byte) {
	most := acrossMTU + 20
	size := d.size(most)
	for range 1 + d.below(20) {
		f.Payload = make([]byte, size)
		for i := range f.Payload {
			f.Payload[i] = byte(len(all) + i)
		}
		frame := packettest.Build(f)
		if f.Flow.Protocol == packet.ProtocolTCP {
			binary.BigEndian.PutUint32(frame[38:], uint32(len(all)*size))
			frame[47] = pick[byte](d, packet.ACK, packet.ACK, packet.ACK, packet.ACK|packet.PSH, packet.SYN, packet.SYN|packet.ACK, packet.FIN|packet.ACK, packet.RST, d.byte())
			putChecksum(frame)
		}
		all = append(all, d.dressed(frame))
		switch d.below(8) {
		case 7:
			size = d.size(most) // a frame of another size is not joined
		case 6:
			f.Flow.DstPort = pick[uint16](d, 53, 54, 56, 60, 80, 8000, 99)
		case 5:
			f.FragID++
		}
	}
	return all
}

// bare returns a frame with an empty virtio header.
func (d *dice) bare(frame []byte) []byte {
	return append(make([]byte, packet.OffloadLen), frame...)
}

// dressed returns a frame with a virtio header. Mostly the header is empty, sometimes the checksum
// is left to the device, and sometimes the header is malformed.
func (d *dice) dressed(frame []byte) []byte {
	b := d.bare(frame)
	frame = b[packet.OffloadLen:]
	switch d.below(12) {
	case 11:
		return b[:packet.OffloadLen+d.below(len(frame)+1)] // the frame is cut short
	case 10:
		frame[d.below(len(frame))] ^= 1 << d.below(8)
	case 9:
		return append(b, make([]byte, d.below(64))...) // padded
	case 8:
		if len(frame) >= 42 && frame[23] == packet.ProtocolUDP {
			clear(frame[40:42]) // the UDP datagram has no checksum
		}
	case 7, 6, 5:
		d.partial(b, 0)
	case 4:
		for i := range b[:packet.OffloadLen] {
			b[i] = d.byte()
		}
	}
	return b
}

// partial leaves the checksum of TCP or UDP to the device. If size is not zero, it also leaves
// cutting into segments of that size to the device.
func (d *dice) partial(b []byte, size int) {
	frame := b[packet.OffloadLen:]
	field, kind := 0, byte(0)
	switch {
	case len(frame) >= 54 && frame[23] == packet.ProtocolTCP:
		field, kind = 16, 1
	case len(frame) >= 42 && frame[23] == packet.ProtocolUDP:
		field, kind = 6, 5
	default:
		return
	}
	b[0] = 1
	if size != 0 {
		b[1] = kind
	}
	binary.NativeEndian.PutUint16(b[4:], uint16(size))
	binary.NativeEndian.PutUint16(b[6:], 34)
	binary.NativeEndian.PutUint16(b[8:], uint16(field))
	binary.BigEndian.PutUint16(frame[34+field:], ones(pseudoSum(frame)))
}

// super draws a frame that stands for several packets of any size.
func (d *dice) super(f packettest.Frame) []byte {
	f.Flow.Protocol = pick[uint8](d, packet.ProtocolTCP, packet.ProtocolUDP)
	f.Payload = make([]byte, d.size(65_000))
	for i := range f.Payload {
		f.Payload[i] = byte(i * 7 >> (i & 3))
	}
	size := 1 + d.size(acrossMTU)
	if d.once(4) {
		size = d.below(1 << 16)
	}
	if f.Flow.Protocol == packet.ProtocolUDP && d.once(2) {
		size = max(1, min(size, len(f.Payload)/(1+d.below(100))))
	}
	b := d.bare(packettest.Build(f))
	if f.Flow.Protocol == packet.ProtocolTCP {
		b[packet.OffloadLen+47] = pick[byte](d, packet.ACK, packet.ACK|packet.PSH, packet.ACK|packet.FIN, packet.ACK|0x80, packet.SYN)
	}
	d.partial(b, size)
	if d.once(8) {
		b[d.below(packet.OffloadLen)] = d.byte()
	}
	return b
}

// fragments draws a datagram in fragments, in any order, perhaps with one missing or repeated.
func (d *dice) fragments(f packettest.Frame) (all [][]byte) {
	f.DontFragment, f.FragID = false, uint16(d.below(1<<16))
	f.Payload = make([]byte, d.size(4000))
	whole := packettest.Build(f)
	body, unit := whole[34:], 8*(1+d.below(170))
	for at := 0; at < len(body); at += unit {
		end := min(at+unit, len(body))
		piece := packettest.Frame{Flow: f.Flow, SrcMAC: f.SrcMAC, DstMAC: f.DstMAC, FragID: f.FragID, Payload: body[at:end]}
		piece.Flow.Protocol = 255 // a protocol for which Build adds no header
		b := packettest.Build(piece)
		b[23] = f.Flow.Protocol
		offset := uint16(at / 8)
		if d.once(16) {
			offset = uint16(d.below(64))
		}
		if end < len(body) {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(b[20:], offset)
		putHeaderChecksum(b)
		all = append(all, d.bare(b))
	}
	if len(all) > 1 && d.once(3) {
		i, j := d.below(len(all)), d.below(len(all))
		all[i], all[j] = all[j], all[i]
	}
	if len(all) > 0 && d.once(8) {
		all = all[:len(all)-1]
	}
	return all
}

// rules draws some rules for the app, with serials that no other rules have.
func (d *dice) rules() (some []ec2.Rule) {
	for _, r := range acrossRules()["app"].Rules {
		if !d.once(3) {
			some = append(some, r)
		}
	}
	return some
}

func sum(b []byte) (s uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	return s
}

func ones(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// pseudoSum returns the sum over the pseudo-header of a packet without IP options.
func pseudoSum(frame []byte) uint32 {
	return sum(frame[26:34]) + uint32(frame[23]) + uint32(len(frame)-34)
}

// putChecksum writes the correct TCP checksum into a frame.
func putChecksum(frame []byte) {
	clear(frame[50:52])
	binary.BigEndian.PutUint16(frame[50:], ^ones(pseudoSum(frame)+sum(frame[34:])))
}

func putHeaderChecksum(frame []byte) {
	clear(frame[24:26])
	binary.BigEndian.PutUint16(frame[24:], ^ones(sum(frame[14:34])))
}
