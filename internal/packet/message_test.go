package packet_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// dirty returns n bytes that an earlier frame has left.
func dirty(n int) []byte { return bytes.Repeat([]byte{0xee}, n) }

// bytesOf returns the bytes of hexadecimal text with blanks.
func bytesOf(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestARPReplyNamesTheTarget(t *testing.T) {
	asker, owner := ec2.MAC{2, 0, 0, 0, 0, 7}, ec2.MAC{2, 0, 0, 0, 0, 9}
	frame := append(packettest.ARP(1, asker, netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.9")), 0, 0, 0) // padding
	p := decode(t, frame)
	want := bytesOf(t, `020000000007 020000000009 0806 0001 0800 06 04 0002
		020000000009 0a000009 020000000007 0a000007`)
	if got := packet.ARPReply(frame, &p, owner); !bytes.Equal(got, want) {
		t.Errorf("the reply is\n% x, want\n% x", got, want)
	}
}

func TestAnnouncementWritesEveryByte(t *testing.T) {
	want := bytesOf(t, `ffffffffffff 020000000009 0806 0001 0800 06 04 0001
		020000000009 0a000009 000000000000 0a000009`)
	if got := packet.Announcement(dirty(60), ec2.MAC{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("10.0.0.9")); !bytes.Equal(got, want) {
		t.Errorf("the announcement is\n% x, want\n% x", got, want)
	}
}

func TestFragmentationNeededQuotesThePacket(t *testing.T) {
	gateway := netip.MustParseAddr("198.18.0.1")
	for n, quoted := range map[int]int{100: 128, 520: 548, 521: 548, 3000: 548} {
		frame := packettest.Build(udp(numbered(n)))
		p := decode(t, frame)
		got := packet.FragmentationNeeded(dirty(590), frame, &p, gateway, 1234)
		want := bytesOf(t, "0800 45c0 0000 0000 0000 4001 0000 c6120001 cb007119 0304 0000 0000 04d2")
		binary.BigEndian.PutUint16(want[4:], uint16(20+8+quoted))
		want = append(want, frame[14:14+quoted]...)
		binary.BigEndian.PutUint16(want[12:], ^ones(want[2:22]))
		binary.BigEndian.PutUint16(want[24:], ^ones(want[22:]))
		if !bytes.Equal(got[12:], want) {
			t.Errorf("the error about %d bytes is\n% x, want\n% x", len(frame), got[12:], want)
		}
	}
}

func TestFirstSYNIsTCPWithSYNAlone(t *testing.T) {
	other := decode(t, packettest.Build(udp("x")))
	other.TCPFlags = packet.SYN
	for name, tt := range map[string]struct {
		p    packet.Packet
		want bool
	}{
		"SYN":         {decode(t, packettest.Build(tcp(packet.SYN, ""))), true},
		"SYN and URG": {decode(t, packettest.Build(tcp(packet.SYN|packet.URG, ""))), true},
		"SYN and ACK": {decode(t, packettest.Build(tcp(packet.SYN|packet.ACK, ""))), false},
		"ACK":         {decode(t, packettest.Build(tcp(packet.ACK, ""))), false},
		"RST":         {decode(t, packettest.Build(tcp(packet.RST, ""))), false},
		"UDP":         {other, false},
	} {
		if got := tt.p.IsFirstSYN(); got != tt.want {
			t.Errorf("%s: IsFirstSYN = %v, want %v", name, got, tt.want)
		}
	}
}

func TestDevicesTakeWhatTheirOffloadsSay(t *testing.T) {
	stream, datagram := decode(t, packettest.Build(tcp(packet.ACK, "x"))), decode(t, packettest.Build(udp("x")))
	segments := func(p packet.Packet, n uint32) *packet.Packet { p.Segments = n; return &p }
	for _, tt := range []struct {
		p    *packet.Packet
		want [3]bool // NoOffloads, StreamOffloads, DatagramOffloads
	}{
		{segments(stream, 1), [3]bool{false, true, true}},
		{segments(stream, 2), [3]bool{false, true, true}},
		{segments(datagram, 1), [3]bool{false, true, true}},
		{segments(datagram, 2), [3]bool{false, false, true}},
	} {
		for i, o := range []packet.Offloads{packet.NoOffloads, packet.StreamOffloads, packet.DatagramOffloads} {
			if got := o.Take(tt.p); got != tt.want[i] {
				t.Errorf("offloads %d take %d segments of protocol %d: %v, want %v", o, tt.p.Segments, tt.p.Flow.Protocol, got, tt.want[i])
			}
		}
	}
}

// An ICMP error about a ping names the ping's type and identifier.
func TestICMPErrorQuotesAPing(t *testing.T) {
	p := decode(t, packettest.ICMPError(packet.ICMPTimeExceeded, 0, server, client, packettest.Build(echo()), ec2.MAC{2}, ec2.MAC{4}))
	if !p.HasQuoted || p.Quoted != echo().Flow || p.QuotedICMP != packet.ICMPEcho {
		t.Errorf("quoted flow %v of ICMP type %d, want %v of type %d", p.Quoted, p.QuotedICMP, echo().Flow, packet.ICMPEcho)
	}
}

// RFC 768: a UDP checksum of zero means that there is none. It stays, and one that becomes zero by a
// change of address is sent as ones.
func TestUDPChecksumOfZeroMeansNone(t *testing.T) {
	to := netip.MustParseAddr("10.10.1.44")
	frame := packettest.Build(udp("hello"))
	clear(frame[40:42])
	p := decode(t, frame)
	packet.RewriteSource(frame, &p, to)
	if frame[40] != 0 || frame[41] != 0 {
		t.Errorf("a datagram without a checksum got checksum % x", frame[40:42])
	}
	whole := packettest.Build(udp("hello"))
	for i := range 1 << 16 { // one of these addresses makes the checksum zero
		frame := bytes.Clone(whole)
		p := decode(t, frame)
		packet.RewriteSource(frame, &p, netip.AddrFrom4([4]byte{10, 10, byte(i >> 8), byte(i)}))
		if frame[40] == 0 && frame[41] == 0 {
			t.Fatalf("the checksum of a datagram became zero, which means none, by the source address %v", p.Flow.Src)
		}
		if i%1000 == 0 && !checksumsHold(t, frame) {
			t.Fatalf("wrong checksum for the source address %v", p.Flow.Src)
		}
	}
}

// zeroSum returns a payload with which the checksum of a datagram from udp is zero before it is
// replaced by ones.
func zeroSum(t *testing.T) string {
	for i := range 1 << 16 {
		payload := string([]byte{byte(i >> 8), byte(i)})
		if b := packettest.Build(udp(payload)); b[40] == b[41] && b[40]+1 <= 1 { // all zeros or all ones
			return payload
		}
	}
	t.Fatal("no payload has a checksum of zero")
	return ""
}

func TestFinishedUDPChecksumIsNeverZero(t *testing.T) {
	payload := zeroSum(t)
	frame := partial(udp(payload), 6)
	h := offload(1, 0, 0, 34, 6)
	p := decode(t, frame)
	packet.Sanitize(h, &p)
	packet.FinishChecksum(h, frame, &p)
	if [2]byte(frame[40:]) != [2]byte{0xff, 0xff} || p.Partial || !bytes.Equal(h, make([]byte, packet.OffloadLen)) {
		t.Errorf("checksum % x, partial %v, virtio header % x; want ff ff, false and zeros", frame[40:42], p.Partial, h)
	}
	frame = packettest.Build(udp(payload))
	p = decode(t, frame)
	packet.Finish(frame, &p)
	if [2]byte(frame[40:]) != [2]byte{0xff, 0xff} {
		t.Errorf("Finish wrote checksum % x, want ff ff", frame[40:42])
	}
	// TCP has no such rule: its checksum may be zero.
	for i := range 1 << 16 {
		b := packettest.Build(tcp(packet.ACK, string([]byte{byte(i >> 8), byte(i)})))
		if b[50] != 0 || b[51] != 0 {
			continue
		}
		p := decode(t, b)
		if packet.Finish(b, &p); b[50] != 0 || b[51] != 0 {
			t.Errorf("Finish wrote TCP checksum % x, want 00 00", b[50:52])
		}
		b = partial(tcp(packet.ACK, string([]byte{byte(i >> 8), byte(i)})), 16)
		p = decode(t, b)
		h := offload(1, 0, 0, 34, 16)
		packet.Sanitize(h, &p)
		if packet.FinishChecksum(h, b, &p); b[50] != 0 || b[51] != 0 {
			t.Errorf("FinishChecksum wrote TCP checksum % x, want 00 00", b[50:52])
		}
		return
	}
	t.Fatal("no payload has a TCP checksum of zero")
}

func TestSegmentStopsAtTheFirstError(t *testing.T) {
	full := errors.New("full")
	frame := partial(udp(numbered(300)), 6)
	h := offload(1, 5, 100, 34, 6)
	p := decode(t, frame)
	packet.Sanitize(h, &p)
	n := 0
	if err := packet.Segment(h, frame, &p, make([]byte, 2000), func([]byte) error { n++; return full }); !errors.Is(err, full) || n != 1 {
		t.Errorf("Segment emitted %d packets and returned %v, want 1 packet and %v", n, err, full)
	}
	n = 0
	if err := packet.Fragment(packettest.Build(udp(numbered(300))), 14, 128, make([]byte, 200), func([]byte) error { n++; return full }); !errors.Is(err, full) || n != 1 {
		t.Errorf("Fragment emitted %d packets and returned %v, want 1 packet and %v", n, err, full)
	}
	// A frame of one packet loses its padding and its virtio header.
	plain := append(packettest.Build(udp("x")), 0, 0)
	p = decode(t, plain)
	h = offload(0, 0, 0, 9, 9)
	if err := packet.Segment(h, plain, &p, nil, func(b []byte) error {
		if len(b) != len(plain)-2 {
			t.Errorf("Segment emitted %d bytes, want %d without padding", len(b), len(plain)-2)
		}
		return full
	}); !errors.Is(err, full) || !bytes.Equal(h, make([]byte, packet.OffloadLen)) {
		t.Errorf("Segment returned %v and virtio header % x, want %v and zeros", err, h, full)
	}
}

// RFC 791 §3.1: a datagram has at most 65,535 bytes with its header.
func TestFragmentEndsWithinALongestDatagram(t *testing.T) {
	for n := 27; n < 50; n++ {
		frame := fragment(udp(""), 65480, false, n)
		if size := 65480 + len(frame) - 34 + 20; size <= 65535 {
			decode(t, frame)
		} else {
			refused(t, "a fragment that ends behind the longest datagram", frame, verdict.BadLength)
		}
	}
}

func TestJoinableIsTCPWithARightChecksum(t *testing.T) {
	long := numbered(48)
	ipv6 := packettest.Build(tcp(packet.ACK, long))
	ipv6[12], ipv6[13] = 0x86, 0xdd
	for name, tt := range map[string]struct {
		frame []byte
		want  bool
	}{
		"TCP":                       {packettest.Build(tcp(packet.ACK, long)), true},
		"TCP with options":          {finishedTCP(t, options(partial(tcp(packet.ACK, long), 16), 1, 1, 1, 1)), true},
		"a wrong checksum":          {edit(tcp(packet.ACK, long), set(60, 0xff)), false},
		"47 bytes":                  {packettest.Build(tcp(packet.ACK, long[:47])), false},
		"UDP":                       {packettest.Build(udp(long)), false},
		"ICMP":                      {packettest.Build(echo()), false},
		"another EtherType":         {ipv6, false},
		"padding":                   {append(packettest.Build(tcp(packet.ACK, long)), 0), false},
		"a first fragment":          {edit(tcp(packet.ACK, long), set(20, 0x20)), false},
		"a later fragment":          {edit(tcp(packet.ACK, long), set(21, 1)), false},
		"IP version 6":              {edit(tcp(packet.ACK, long), set(14, 0x65)), false},
		"an IP header of 16 bytes":  {edit(tcp(packet.ACK, long), set(14, 0x44)), false},
		"a TCP header of 16 bytes":  {edit(tcp(packet.ACK, long), set(46, 0x40)), false},
		"a TCP header of 60 bytes":  {edit(tcp(packet.ACK, long[:20]), set(46, 0xf0)), false},
		"an Ethernet header":        {packettest.Build(tcp(packet.ACK, long))[:14], false},
		"half an IP header":         {packettest.Build(tcp(packet.ACK, long))[:33], false},
		"TCP without its last byte": {edit(tcp(packet.ACK, ""), cut(39)), false},
		"UDP without its last byte": {edit(udp(""), cut(27)), false},
	} {
		if got := packet.Joinable(tt.frame); got != tt.want {
			t.Errorf("%s: Joinable = %v, want %v", name, got, tt.want)
		}
		// Both ways to begin a train take any bytes.
		for _, marks := range []packet.Marks{0, packet.Unfinished, packet.Unfinished | packet.Followed} {
			join([]piece{{tt.frame, marks}, {tt.frame, marks}})
		}
		header := make([]byte, packet.OffloadLen)
		follow([][]byte{append(header, tt.frame...), append(header, tt.frame...)})
	}
}

func finishedTCP(t *testing.T, frame []byte) []byte {
	return finished(t, piece{frame, packet.Unfinished})
}

func TestJoinedCountsThePacketsOfAFrame(t *testing.T) {
	for n, want := range map[int]int{1: 1, 100: 1, 101: 2, 200: 2, 201: 3, 300: 3} {
		frames := join(pieces(t, offload(1, 5, 100, 34, 6), partial(udp(numbered(n)), 6)))
		if got := packet.Joined(frames[0]); len(frames) != 1 || got != want {
			t.Errorf("%d bytes in packets of 100: Joined = %d of %d frames, want %d of one", n, got, len(frames), want)
		}
	}
	for name, header := range map[string][]byte{"no segments": offload(1, 0, 100, 34, 6), "segments of no size": offload(1, 5, 0, 34, 6)} {
		if got := packet.Joined(append(header, packettest.Build(udp(numbered(300)))...)); got != 1 {
			t.Errorf("%s: Joined = %d, want 1", name, got)
		}
	}
}

func TestClosedTrainTakesNoPacket(t *testing.T) {
	cut := pieces(t, offload(1, 1, 100, 34, 16), partial(tcp(packet.ACK, numbered(300)), 16))
	var train packet.Train
	b := make([]byte, 70_000)
	train.Begin(b, packet.OffloadLen+copy(b[packet.OffloadLen:], cut[0].frame), cut[0].marks)
	if train.Join(cut[1].frame, 0) {
		t.Error("a packet with a finished checksum was joined")
	}
	if !train.Join(cut[1].frame, cut[1].marks) || !train.Open() {
		t.Fatal("the second packet was not joined")
	}
	train.Finish()
	if train.Open() || train.Join(cut[2].frame, cut[2].marks) {
		t.Error("a finished train took a packet")
	}
}

func TestSizesAtTheLimit(t *testing.T) {
	sanitize := func(frame, header []byte) (verdict.Verdict, bool) {
		p := decode(t, frame)
		if v, ok := packet.Sanitize(header, &p); !ok {
			return v, ok
		}
		return packet.Fits(&p, mtu)
	}
	for _, tt := range []struct {
		name   string
		frame  []byte
		header []byte
		want   bool
	}{
		{"a packet of the MTU", packettest.Build(udp(numbered(1472))), offload(0, 0, 0, 0, 0), true},
		{"a packet above the MTU", packettest.Build(udp(numbered(1473))), offload(0, 0, 0, 0, 0), false},
		{"segments of the MTU", partial(udp(numbered(4000)), 6), offload(1, 5, 1472, 34, 6), true},
		{"segments above the MTU", partial(udp(numbered(4000)), 6), offload(1, 5, 1473, 34, 6), false},
		{"one segment below its size", partial(udp(numbered(1472)), 6), offload(1, 5, 4000, 34, 6), true},
		{"128 datagrams", partial(udp(numbered(1280)), 6), offload(1, 5, 10, 34, 6), true},
		{"129 datagrams", partial(udp(numbered(1281)), 6), offload(1, 5, 10, 34, 6), false},
		{"segments of 48 bytes", partial(tcp(packet.ACK, numbered(400)), 16), offload(1, 1, 48, 34, 16), true},
		{"segments of 47 bytes", partial(tcp(packet.ACK, numbered(400)), 16), offload(1, 1, 47, 34, 16), false},
		{"an ARP request with a checksum", packettest.ARP(1, ec2.MAC{2}, client, server), offload(1, 0, 0, 14, 6), false},
	} {
		if v, ok := sanitize(tt.frame, tt.header); ok != tt.want {
			t.Errorf("%s: Sanitize and Fits = %v, %v, want %v", tt.name, v, ok, tt.want)
		}
	}
}
