package conntrack

import (
	"net/netip"
	"testing"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Seek and Fetch take no lock and change nothing, also while another goroutine adds connections.
func TestPlaceIsThatOfTheConnection(t *testing.T) {
	tr, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	z := tr.AddZone(1, Timeouts{})
	query := func(port uint16) *packet.Packet {
		f := packet.Flow{Src: netip.MustParseAddr("203.0.113.25"), Dst: netip.MustParseAddr("10.10.0.4"), SrcPort: port, DstPort: 53, Protocol: packet.ProtocolUDP}
		return &packet.Packet{Flow: f, L3: 14, L4: 34, Payload: 42, Len: 60, HasL4: true, Segments: 1}
	}
	admit := func(p *packet.Packet) {
		var u Tuple
		z.Identify(&u, p)
		if v := z.Admit(p, &u, 0, Admission{}); v != verdict.Forward {
			t.Errorf("Admit returned %v", v)
		}
	}
	place := func(f packet.Flow) Place {
		var u Tuple
		z.IdentifyFlow(&u, f)
		p := z.Seek(&u)
		p.Fetch()
		return p
	}
	p := query(1000)
	Place{}.Fetch()
	if e := place(p.Flow).entry(); e != nil {
		t.Errorf("an unknown connection has the place of %v", e.flow())
	}
	admit(p)
	answer := packet.Flow{Src: p.Flow.Dst, Dst: p.Flow.Src, SrcPort: p.Flow.DstPort, DstPort: p.Flow.SrcPort, Protocol: p.Flow.Protocol}
	for _, f := range []packet.Flow{p.Flow, answer} {
		if e := place(f).entry(); e == nil || e.flow() != p.Flow {
			t.Errorf("the connection of %v has the place %v", f, e)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for port := range uint16(5000) {
			admit(query(port + 2000))
		}
	}()
	for i := 0; ; i++ {
		place(query(uint16(2000 + i%5000)).Flow)
		select {
		case <-done:
			return
		default:
		}
	}
}
