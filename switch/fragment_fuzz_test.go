package vswitch

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// FuzzFragments draws the MTU of an exit, the size of a packet, its protocol, IP options and DF, whether it comes
// as fragments or as a frame that stands for several packets, and whether it leaves by the uplink. What leaves, put
// together by a plain reassembly, has the bytes that were sent and right checksums, and no piece exceeds the MTU.
// A packet with DF that does not fit leaves no piece, and its sender gets the error.
func FuzzFragments(f *testing.F) {
	r := rand.New(rand.NewPCG(13, 4))
	for range 40 {
		seed := make([]byte, 24)
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(fragmented)
}

// TestFragmentsHaveTheBytesThatWereSent is FuzzFragments with random input.
func TestFragmentsHaveTheBytesThatWereSent(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 5))
	for range 400 {
		input := make([]byte, 24)
		for i := range input {
			input[i] = byte(r.Uint32())
		}
		fragmented(t, input)
	}
}

// A fragmenting is one packet of FuzzFragments and its exit.
type fragmenting struct {
	mtu, size int
	protocol  uint8
	df        bool
	segment   int   // bytes of payload of each datagram of a frame that stands for several; 0: one packet
	sizes     []int // of the fragments as which it is sent; none: whole
	options   []byte
	uplink    bool
	seed      uint64 // of the payload
}

func drawFragmenting(b []byte) (g fragmenting, ok bool) {
	if len(b) < 12 {
		return g, false
	}
	number := func(at int) int { return int(binary.BigEndian.Uint16(b[at:])) }
	g = fragmenting{
		mtu: minMTU + number(0)%9000, size: number(2) % 9001, df: b[4]&1 != 0, uplink: b[4]&2 != 0,
		protocol: []uint8{packet.ProtocolUDP, packet.ProtocolICMP, packet.ProtocolUDP, 47}[b[4]>>2&3], seed: uint64(number(6)),
	}
	if g.mtu < 576 && g.size > 2000 {
		g.size %= 2000 // 48 bytes a piece: limits the time of one input
	}
	g.options = [][]byte{nil, nil, {0x94, 4, 0, 0}, {0x44, 8, 5, 0, 1, 2, 3, 4}, {1, 7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0}}[b[5]%5] // router alert is copied, timestamp and record route are not
	switch b[8] % 4 {
	case 0:
		left := g.size
		for _, c := range b[9:min(len(b), 14)] {
			if n := (int(c)*8)&^7 + 16; n < left {
				g.sizes, left = append(g.sizes, n), left-n
			}
		}
	case 1:
		if g.protocol == packet.ProtocolUDP && len(g.options) == 0 {
			g.segment = 1 + number(9)%1500
			g.size = min(g.size, 60*g.segment)
		}
	}
	g.df = g.df && g.sizes == nil
	return g, g.size > 0
}

// frames builds what the web sends, and what must arrive: the data of each packet after the IP header.
func (g *fragmenting) frames(b *testbed) (header []byte, frames, data [][]byte) {
	dst := "10.10.0.5"
	if g.uplink {
		dst = "203.0.113.25"
	}
	f := template(g.protocol, addr("10.10.0.4"), addr(dst), 1000, 53)
	f.DontFragment, f.FragID, f.Payload = g.df, uint16(g.seed), make([]byte, g.size)
	r := rand.New(rand.NewPCG(g.seed, 1))
	for i := range f.Payload {
		f.Payload[i] = byte(r.Uint32())
	}
	frame := b.of("web", f)
	header = make([]byte, offloadLen)
	if g.segment > 0 && g.segment < g.size {
		header[0], header[1] = 1, 5
		binary.NativeEndian.PutUint16(header[4:], uint16(g.segment))
		binary.NativeEndian.PutUint16(header[6:], 34)
		binary.NativeEndian.PutUint16(header[8:], 6)
		for at := 0; at < g.size; at += g.segment {
			data = append(data, f.Payload[at:min(at+g.segment, g.size)])
		}
		pseudo := append(bytes.Clone(frame[26:34]), 0, 17)
		pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(8+g.size))
		binary.BigEndian.PutUint16(frame[40:], packettest.OnesSum(pseudo))
		return header, [][]byte{frame}, data
	}
	frame = insertOptions(frame, g.options)
	if g.sizes == nil {
		return header, [][]byte{frame}, [][]byte{f.Payload}
	}
	return header, packettest.Fragments(frame, g.sizes...), [][]byte{f.Payload}
}

// insertOptions inserts IP options into a frame.
func insertOptions(frame, options []byte) []byte {
	frame = append(append(bytes.Clone(frame[:34]), options...), frame[34:]...)
	frame[14] += byte(len(options) / 4)
	binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
	frame[24], frame[25] = 0, 0
	binary.BigEndian.PutUint16(frame[24:], ^packettest.OnesSum(frame[14:34+len(options)]))
	return frame
}

func fragmented(t *testing.T, input []byte) {
	g, ok := drawFragmenting(input)
	if !ok {
		return
	}
	b := newTestbedWith(t, conntrack.Config{Capacity: 4096, Untracked: 4096, Reserve: 256})
	b.rules("app", permit(ec2.AnyProtocol, -1, -1, "10.0.0.0/8"))
	exit := "app"
	e := b.sw.Edit(b.generation)
	e.Attach(b.ports["app"], 1, Attachment{Endpoint: b.owners["app"], Zone: b.zones["app"], Rules: b.sets["app"], MTU: g.mtu})
	e.Uplink(&Uplink{Port: b.ports["uplink"], MAC: upMAC, NextHop: routerMAC, MTU: g.mtu})
	b.sw.Publish(e)
	if g.uplink {
		exit = "uplink"
	}
	header, frames, data := g.frames(b)
	passed, answers := b.written(exit, nil), b.written("web", nil)
	largest := 0
	for _, frame := range frames {
		want := verdict.Forward
		n := len(frame) - 14
		if len(data) > 1 {
			n = 28 + len(data[0])
		}
		if largest = max(largest, n); largest > g.mtu && frame[20]&0x40 != 0 {
			want = verdict.TooBig
		}
		if at, v := b.sendOffload("web", bytes.Clone(header), bytes.Clone(frame)); v != want || at != exit {
			t.Fatalf("%+v: a frame of %d bytes: %v at %s, want %v at %s", g, len(frame), v, at, want, exit)
		}
	}
	got := passed()
	if g.df && largest > g.mtu {
		if len(got) != 0 || len(answers()) != 1 {
			t.Fatalf("%+v: %d frames left and %d errors were sent, want none and one", g, len(got), len(answers()))
		}
		return
	}
	if len(answers()) != 0 {
		t.Fatalf("%+v: the sender got an error", g)
	}
	g.check(t, got, data)
}

// check checks the pieces that left against the data of the packets that were sent.
func (g *fragmenting) check(t *testing.T, got, data [][]byte) {
	t.Helper()
	if len(data) > 1 && len(got) == 1 { // the device takes the frame as it is
		if !bytes.HasSuffix(got[0], bytes.Join(data, nil)) {
			t.Fatalf("%+v: the frame has other bytes", g)
		}
		return
	}
	for i, want := range data {
		n := 0
		for n < len(got) && got[n][20]&0x20 != 0 {
			n++
		}
		n = min(n+1, len(got))
		ip, whole, err := packettest.Reassemble(got[:n])
		if err != nil {
			t.Fatalf("%+v: packet %d: %v", g, i, err)
		}
		for _, piece := range got[:n] {
			if len(piece)-14 > g.mtu {
				t.Fatalf("%+v: packet %d: a piece of %d bytes", g, i, len(piece)-14)
			}
		}
		header := len(whole) - len(want)
		if header < 0 || !bytes.Equal(whole[header:], want) {
			t.Fatalf("%+v: packet %d: %d bytes that differ from the %d that were sent", g, i, len(whole), len(want))
		}
		if g.protocol == packet.ProtocolUDP {
			pseudo := append(bytes.Clone(ip[6:14]), 0, 17)
			pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(whole)))
			if packettest.OnesSum(append(pseudo, whole...)) != 0xffff || int(binary.BigEndian.Uint16(whole[4:])) != len(whole) {
				t.Fatalf("%+v: packet %d: wrong UDP checksum or length", g, i)
			}
		}
		got = got[n:]
	}
	if len(got) != 0 {
		t.Fatalf("%+v: %d pieces more than were sent", g, len(got))
	}
}
