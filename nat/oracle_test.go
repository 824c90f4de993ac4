package nat

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// An oracle does what a Table does, with a list.
type oracle struct {
	config Config
	all    []translated
}

type translated struct {
	epoch  uint64
	flow   packet.Flow // from inside
	port   uint16
	last   time.Duration
	out    bool // a FIN from inside
	in     bool // a FIN from outside
	resets bool
}

func (x *translated) over(now time.Duration) bool {
	switch idle := now - x.last; {
	case x.resets:
		return idle >= 10*time.Second
	case x.out && x.in:
		return idle >= time.Minute
	default:
		return idle >= 350*time.Second
	}
}

func (o *oracle) sweep(now time.Duration) {
	var left []translated
	for _, x := range o.all {
		if !x.over(now) {
			left = append(left, x)
		}
	}
	o.all = left
}

// fromInside returns the translation that a packet from inside has; nil if it must be dropped. chosen is the port that
// the Table chose.
func (o *oracle) fromInside(epoch uint64, p *packet.Packet, now time.Duration, chosen uint16) (*translated, verdict.Verdict) {
	o.sweep(now)
	gateway, source, destination := 0, 0, 0
	for i := range o.all {
		x := &o.all[i]
		if x.epoch != epoch {
			continue
		}
		gateway++
		if x.flow == p.Flow {
			o.seen(x, p, now, &x.out)
			return x, verdict.Forward
		}
		if x.flow.Src == p.Flow.Src {
			source++
		}
		if x.flow.Dst == p.Flow.Dst && x.flow.Protocol == p.Flow.Protocol && (x.flow.Protocol == packet.ProtocolICMP || x.flow.DstPort == p.Flow.DstPort) {
			destination++
		}
	}
	switch {
	case p.Flow.Protocol == packet.ProtocolTCP && !p.IsFirstSYN():
		return nil, verdict.NATUnknown
	case gateway >= o.config.PerGateway || source >= o.config.PerSource || destination >= o.config.PerDestination || len(o.all) >= o.config.Capacity:
		return nil, verdict.NATExhausted
	}
	o.all = append(o.all, translated{epoch: epoch, flow: p.Flow, port: chosen, last: now})
	return &o.all[len(o.all)-1], verdict.Forward
}

func (o *oracle) seen(x *translated, p *packet.Packet, now time.Duration, fin *bool) {
	x.last = now
	switch {
	case p.Flow.Protocol != packet.ProtocolTCP:
	case p.IsFirstSYN() && fin == &x.out:
		x.out, x.in, x.resets = false, false, false
	case p.TCPFlags&packet.RST != 0:
		x.resets = true
	case p.TCPFlags&packet.FIN != 0:
		*fin = true
	}
}

// answered returns the translation that a packet from outside answers in, or nil.
func (o *oracle) answered(epoch uint64, p *packet.Packet, now time.Duration) *translated {
	o.sweep(now)
	for i := range o.all {
		x := &o.all[i]
		if x.epoch == epoch && x.flow.Protocol == p.Flow.Protocol && x.flow.Dst == p.Flow.Src && x.port == p.Flow.DstPort &&
			(x.flow.Protocol == packet.ProtocolICMP || x.flow.DstPort == p.Flow.SrcPort) {
			o.seen(x, p, now, &x.in)
			return x
		}
	}
	return nil
}

var small = Config{Capacity: 48, PerGateway: 30, PerSource: 5, PerDestination: 9}

// A player makes packets of bytes, gives them to a Table and to an oracle, and compares.
type player struct {
	t        testing.TB
	path     string
	table    *Table
	gateways [2]*Gateway
	oracle   oracle
	now      time.Duration
	ports    []uint16 // of translations, for packets from outside
	passed   int      // packets from inside
	answered int      // packets from outside that passed
}

func newPlayer(t testing.TB) *player {
	g := &player{t: t, path: filepath.Join(bootfiletest.Dir(t), "nat"), oracle: oracle{config: small}, ports: []uint16{1024}}
	g.open()
	t.Cleanup(func() { g.table.Close() })
	return g
}

func (g *player) open() {
	c := small
	c.Path = g.path
	table, err := Open(c)
	if err != nil {
		g.t.Fatal(err)
	}
	g.table = table
	for i := range g.gateways {
		g.gateways[i] = table.Gateway(uint64(7 + i))
	}
}

// play makes a step of 8 bytes.
func (g *player) play(b []byte) {
	g.now += time.Duration(b[0]%8) * time.Second
	gateway := g.gateways[b[1]&1]
	protocol := []uint8{packet.ProtocolTCP, packet.ProtocolUDP, packet.ProtocolICMP}[b[1]>>1%3]
	inside := netip.AddrFrom4([4]byte{10, 0, 0, b[2] % 4})
	remote := netip.AddrFrom4([4]byte{203, 0, 113, b[3] % 3})
	p := packet.Packet{HasL4: true, Segments: 1, TCPFlags: []uint8{packet.SYN, packet.SYN, packet.ACK, packet.FIN | packet.ACK, packet.RST}[b[4]%5]}
	switch b[5] % 16 {
	case 0:
		g.now += time.Duration(b[6]) * 2 * time.Second
		g.table.Sweep(g.now)
	case 1: // the process ends
		if err := g.table.Close(); err != nil {
			g.t.Fatal(err)
		}
		g.open()
	case 2, 3, 4, 5, 6, 7, 8, 9:
		p.Flow = packet.Flow{Src: inside, Dst: remote, SrcPort: uint16(b[6] % 8), DstPort: uint16(b[7] % 2), Protocol: protocol}
		if protocol == packet.ProtocolICMP {
			p.ICMPType, p.Flow.DstPort = packet.ICMPEcho, p.Flow.SrcPort
		}
		if b[6]&0x80 != 0 {
			g.table.Sweep(g.now)
		}
		port, v := gateway.Out(&p, g.now, false)
		if v == verdict.NATExhausted { // expired translations count until they are swept
			g.table.Sweep(g.now)
			port, v = gateway.Out(&p, g.now, false)
		}
		want, wantV := g.oracle.fromInside(gateway.epoch, &p, g.now, port)
		if v != wantV || want != nil && (port != want.port || port < 1024) {
			g.t.Fatalf("%v from inside is %v with port %d, want %v with %+v", p.Flow, v, port, wantV, want)
		}
		if v == verdict.Forward {
			g.ports, g.passed = append(g.ports, port), g.passed+1
		}
	default:
		recent := g.ports[max(0, len(g.ports)-small.Capacity):] // most of them are of live translations
		port := recent[(int(b[6])<<8|int(b[2]))%len(recent)]
		p.Flow = packet.Flow{Src: remote, Dst: netip.AddrFrom4([4]byte{10, 0, 0, 99}), SrcPort: uint16(b[7] % 2), DstPort: port, Protocol: protocol}
		if len(g.oracle.all) > 0 && b[5]%4 != 0 { // an answer, perhaps of another port of the host
			x := g.oracle.all[int(b[6])%len(g.oracle.all)]
			gateway = g.gateways[x.epoch-7]
			p.Flow = packet.Flow{Src: x.flow.Dst, Dst: p.Flow.Dst, SrcPort: x.flow.DstPort ^ uint16(b[7]&1), DstPort: x.port, Protocol: x.flow.Protocol}
			port = x.port
		}
		if p.Flow.Protocol == packet.ProtocolICMP {
			p.ICMPType, p.Flow.SrcPort = packet.ICMPEchoReply, port
		}
		to, v := gateway.In(&p, g.now, false)
		want := g.oracle.answered(gateway.epoch, &p, g.now)
		if (v == verdict.Forward) != (want != nil) || want != nil && (to.Address != want.flow.Src || to.Port != want.flow.SrcPort) {
			g.t.Fatalf("%v from outside is %v to %+v, want %+v", p.Flow, v, to, want)
		}
		if want != nil {
			g.answered++
		}
	}
	g.unique()
}

// unique checks that no two translations to a destination have the same port, and that all are counted.
func (g *player) unique() {
	type place struct {
		epoch    uint64
		remote   netip.Addr
		ports    [2]uint16
		protocol uint8
	}
	seen := make(map[place]bool)
	for _, x := range g.oracle.all {
		at := place{x.epoch, x.flow.Dst, [2]uint16{x.port, x.flow.DstPort}, x.flow.Protocol}
		if x.flow.Protocol == packet.ProtocolICMP {
			at.ports[1] = 0
		}
		if seen[at] {
			g.t.Fatalf("two translations have port %d to %v", x.port, x.flow.Dst)
		}
		seen[at] = true
	}
	g.table.Sweep(g.now)
	g.oracle.sweep(g.now)
	if g.table.live != len(g.oracle.all) || g.gateways[0].Usage().Translations+g.gateways[1].Usage().Translations != len(g.oracle.all) {
		g.t.Fatalf("the table has %d translations, want %d", g.table.live, len(g.oracle.all))
	}
}

func TestTableAgreesWithTheOracle(t *testing.T) {
	g := newPlayer(t)
	r := rand.New(rand.NewPCG(1, 2))
	var b [8]byte
	for range 60_000 {
		binary.LittleEndian.PutUint64(b[:], r.Uint64())
		g.play(b[:])
	}
	if g.passed < 10_000 || g.answered < 1000 {
		t.Errorf("only %d packets from inside and %d from outside passed", g.passed, g.answered)
	}
}

func FuzzTable(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 4 {
		seed := make([]byte, 8*64)
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g := newPlayer(t)
		for ; len(data) >= 8; data = data[8:] {
			g.play(data)
		}
	})
}
