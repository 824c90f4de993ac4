package overlay

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// FuzzAcrossNodes sends the same frames twice. First they cross two nodes, in batches: through the
// sender's pipeline, the seal, trains of datagrams as UDP_GRO makes them, the receiver's joining
// and the receiver's pipeline. Then they pass one by one through a single node that has all
// instances. Every instance must receive the same packets in the same order.
func FuzzAcrossNodes(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomBytes(seed, 600))
	}
	f.Fuzz(acrossNodes)
}

// TestTwoNodesDeliverTheSameAsOne is FuzzAcrossNodes with random input.
func TestTwoNodesDeliverTheSameAsOne(t *testing.T) {
	given := 0
	for seed := range uint64(60) {
		given += sendAcross(t, randomBytes(seed, 1200))
	}
	if given < 5000 {
		t.Errorf("only %d packets arrived, want at least 5000 for a useful test", given)
	}
}

func randomBytes(seed uint64, n int) []byte {
	r, b := rand.New(rand.NewPCG(seed, 10)), make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func acrossNodes(t *testing.T, input []byte) { sendAcross(t, input) }

// sendAcross runs the comparison of FuzzAcrossNodes and returns how many packets instances
// received.
func sendAcross(t *testing.T, input []byte) (given int) {
	if len(input) > 8000 {
		return 0 // limits the time of one input
	}
	d := &dice{rest: input}
	c := siteConfig{mtu: acrossMTU, offloads: pick(d, packet.DatagramOffloads, packet.StreamOffloads, packet.NoOffloads)}
	form := pick(d, Sealed, Sealed, Sealed, VXLAN)
	across := newWire(t, form, c)
	defer across.close()
	single := newSite(t, c, 0, nil)
	defer single.close()
	across.cut = func(n int) int {
		if d.once(4) {
			return 1 + d.below(n)
		}
		return n
	}
	for i := 0; i < 40 && !d.empty(); i++ {
		v := d.volley()
		whole := make([][]byte, len(v.frames))
		for i := range v.frames {
			whole[i] = bytes.Clone(v.frames[i])
		}
		if d.once(8) {
			rules := d.rules()
			for _, s := range []*site{across.sites[0], across.sites[1], single} {
				s.change(rules)
			}
		}
		across.send(v.node, v.host, v.frames)
		for _, frame := range whole {
			single.stations[v.host].send(frame)
			single.settle()
		}
		for _, name := range []string{"web", "lone", "nat", "app", "box", "uplink"} {
			at := v.node // the node whose uplink sends the volley's packets to the internet
			if name != "uplink" {
				at = siteOf(name)
			}
			got, err1 := across.sites[at].given(name)
			want, err2 := single.given(name)
			if err1 != nil || err2 != nil {
				t.Fatalf("volley %d of %s: malformed frames across nodes: %v; on one node: %v", i, v.host, err1, err2)
			}
			given += len(got)
			if !equal(got, want) {
				t.Fatalf("volley %d of %s, %v tunnel: across nodes %s received other packets than on one node:\n%s\nverdicts at the sender %v\nat the receiver %v\non one node %v",
					i, v.host, form, name, difference(got, want), fates(across.sites[v.node]), fates(across.sites[at]), fates(single))
			}
		}
	}
	for _, s := range []*site{across.sites[0], across.sites[1], single} {
		sum := s.verdicts()
		if panics, last := s.sw.Panics(); panics > 0 || sum[verdict.Unset]+sum[verdict.PipelinePanicked] > 0 {
			t.Fatalf("%d panics, want 0; the last is %s at port %s of frame %x; verdicts %v", panics, last.Cause, last.Port, last.Frame, fates(s))
		}
	}
	return given
}

// fates returns the number of packets with each verdict at each port of a site.
func fates(s *site) (all []string) {
	for _, p := range s.sw.Ports() {
		for v, n := range p.Counters().Verdicts {
			if n > 0 {
				all = append(all, fmt.Sprintf("%s: %v %d", p.Name(), verdict.Verdict(v), n))
			}
		}
	}
	return all
}

// difference describes the first packets that differ.
func difference(got, want [][]byte) string {
	for i := range max(len(got), len(want)) {
		var a, b []byte
		if i < len(got) {
			a = got[i]
		}
		if i < len(want) {
			b = want[i]
		}
		if !bytes.Equal(a, b) {
			return fmt.Sprintf("%d packets, want %d; packet %d has %d bytes\n%.200x\nwant %d bytes\n%.200x", len(got), len(want), i, len(a), a, len(b), b)
		}
	}
	return "none"
}

// FuzzHostilePeer sends datagrams of a node that was taken over and seals any content correctly.
// They cause no panic, each has one verdict, and no packet from an interface that the node does not
// have reaches an instance.
func FuzzHostilePeer(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomBytes(seed, 600))
	}
	f.Fuzz(hostilePeer)
}

// TestHostilePeerCannotSendForOthers is FuzzHostilePeer with random input.
func TestHostilePeerCannotSendForOthers(t *testing.T) {
	for seed := range uint64(200) {
		hostilePeer(t, randomBytes(seed, 1200))
	}
}

func hostilePeer(t *testing.T, input []byte) {
	if len(input) > 8000 {
		return
	}
	d := &dice{rest: input}
	form := pick(d, Sealed, Sealed, Sealed, VXLAN)
	w := newWire(t, form, siteConfig{mtu: acrossMTU, offloads: packet.DatagramOffloads})
	defer w.close()
	w.cut = func(n int) int { return 1 + d.below(n) }
	sender := w.sites[0].device.table.Load().send[2]
	for i := 0; i < 40 && !d.empty(); i++ {
		datagrams := d.sealed(sender, form)
		w.deliver(1, datagrams)
		for _, host := range []string{"app", "box"} {
			given, err := w.sites[1].given(host)
			if err != nil {
				t.Fatal(err)
			}
			for _, frame := range given {
				if why := foreign(frame); why != "" {
					t.Fatalf("%s received a packet %s: %x", host, why, frame)
				}
			}
		}
	}
	fates := w.sites[1].verdicts()
	if panics, last := w.sites[1].sw.Panics(); panics > 0 || fates[verdict.Unset] > 0 {
		t.Fatalf("%d panics, want 0; the last is %s of frame %x; verdicts %v", panics, last.Cause, last.Frame, fates)
	}
}

// foreign says why a packet cannot come from node 1; it returns "" for a packet that can. The nat
// forwards for others, so it may send from any address, as at AWS, even from those of node 2's own
// instances. Packets that it forwards have no groups.
func foreign(frame []byte) string {
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(frame, &p); !ok {
		return "that is " + v.String()
	}
	for _, h := range acrossHosts {
		if p.SrcMAC == macOf(h.name) && h.node != 1 {
			return "with the MAC of " + h.name
		}
	}
	if p.Flow.Dst == addr("10.10.0.5") && p.Flow.Src == addr("10.10.0.9") && (p.Flow.DstPort == 53 || p.Flow.DstPort == 8000) {
		return "that only a member of web may send"
	}
	return ""
}

// sealed draws frames, malformed frames and random bytes, and seals each into a datagram as a node
// does.
func (d *dice) sealed(s *association, form Form) (all [][]byte) {
	seal := func(plain []byte, marks packet.Marks) {
		if form == VXLAN {
			all = append(all, bytes.Clone(plain))
			return
		}
		out := make([]byte, headerLen+len(plain)+tagLen)
		all = append(all, s.sealPacket(out, plain, new([12]byte), d.below(queues), marks))
	}
	origin := packet.Origin{VNI: pick[uint32](d, vni, vni, vni, 8, 0), Epoch: pick[uint64](d, 1, 1, 2, 4, 3, 5, 6, 99)}
	host := pick(d, "web", "web", "lone", "nat", "app", "box", "third")
	marks := packet.Marks(pick(d, 1, 1, 3, 0, d.byte()))
	if !d.once(8) {
		marks &= knownMarks
	}
	for _, b := range d.run(0, host) {
		frame := b[packet.OffloadLen:]
		if len(frame) > 1800 {
			frame = frame[:d.below(1800)]
		}
		var plain []byte
		if form == VXLAN {
			plain = append([]byte{vxlanFlag, 0, 0, 0, byte(origin.VNI >> 16), byte(origin.VNI >> 8), byte(origin.VNI), 0}, frame...)
		} else {
			plain = make([]byte, innerLen+len(frame))
			putInner(plain, origin)
			copy(plain[innerLen:], frame)
		}
		switch d.below(12) {
		case 11:
			plain = plain[:d.below(len(plain)+1)]
		case 10:
			plain[d.below(min(len(plain), innerLen+60))] = d.byte()
		case 9: // more options than this version writes
			extra := 4 * d.below(40)
			plain = append(plain[:min(len(plain), innerLen)], append(make([]byte, extra), plain[min(len(plain), innerLen):]...)...)
			plain[0] += byte(extra / 4)
		case 8:
			plain = randomBytes(uint64(d.byte()), d.below(1600))
		}
		seal(plain, marks)
	}
	return all
}
