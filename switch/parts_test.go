package vswitch

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

func TestNewRefusesAConfigurationThatCannotWork(t *testing.T) {
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracker.Close() })
	for name, tt := range map[string]struct {
		make func(Config) (*Switch, error)
		c    Config
		ok   bool
	}{
		"no tracker":              {New, Config{}, false},
		"too many pollers":        {New, Config{Tracker: tracker, Pollers: maxPollers + 1}, false},
		"stateless, no tracker":   {NewStateless, Config{}, false},
		"relay, too many pollers": {NewRelay, Config{Tracker: tracker, Pollers: maxPollers + 1}, false},
		"all pollers":             {New, Config{Tracker: tracker, Pollers: maxPollers}, true},
		"the default":             {New, Config{Tracker: tracker}, true},
	} {
		s, err := tt.make(tt.c)
		if (err == nil) != tt.ok {
			t.Errorf("%s: error %v, want made: %v", name, err, tt.ok)
		}
		if s == nil {
			continue
		}
		if n := len(s.pollers); name == "the default" && (n < 1 || n > 4) {
			t.Errorf("the default has %d pollers, want 1 to 4", n)
		}
		s.Close()
	}
	s, err := NewStateless(Config{Tracker: tracker})
	if err != nil || !s.stateless {
		t.Fatalf("the stateless switch tracks connections, error %v", err)
	}
	s.Close()
}

// A removed network has no addresses, and others keep theirs.
func TestRemovedNetworkHasNoAddresses(t *testing.T) {
	b := newTestbed(t)
	e := b.sw.Edit(2)
	e.Network(Network{VNI: 2, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("10.0.0.1"), MTU: 1500})
	e.AddEndpoint(2, &Endpoint{Epoch: 50, Address: addr("10.10.0.50"), MAC: macOf("x")})
	b.sw.Publish(e)
	s := b.sw.Snapshot()
	for _, tt := range []struct {
		network VNI
		address string
		epoch   uint64 // 0: nobody has it
	}{{1, "10.10.0.4", 1}, {2, "10.10.0.50", 50}, {1, "10.10.0.50", 0}, {2, "198.18.0.4", 0}, {3, "10.10.0.4", 0}} {
		got := s.Owner(tt.network, addr(tt.address))
		if (got == nil) != (tt.epoch == 0) || got != nil && got.Epoch != tt.epoch {
			t.Errorf("in network %d %s belongs to %+v, want epoch %d", tt.network, tt.address, got, tt.epoch)
		}
	}
	e = b.sw.Edit(3)
	e.RemoveNetwork(2)
	b.sw.Publish(e)
	if _, ok := b.sw.Snapshot().Network(2); ok || b.sw.Snapshot().Owner(2, addr("10.10.0.50")) != nil {
		t.Error("the removed network is still there")
	}
	if _, ok := b.sw.Snapshot().Network(1); !ok {
		t.Error("the other network is gone")
	}
}

// An interface of another node whose frames make the pipeline panic is refused, and no other one.
func TestInterfaceOfAnotherNodeIsRefusedAfterItsPanics(t *testing.T) {
	b := newTestbed(t)
	bad := packet.Origin{Node: 2, VNI: 1, Epoch: 7}
	for range maxPanics - 1 {
		b.sw.chargeSender(bad, time.Second)
	}
	if b.sw.refuses(bad) || len(b.sw.Refused()) != 0 {
		t.Errorf("%d panics refused %v", maxPanics-1, b.sw.Refused())
	}
	b.sw.chargeSender(bad, time.Second)
	for _, o := range []packet.Origin{{Node: 2, VNI: 1, Epoch: 8}, {Node: 3, VNI: 1, Epoch: 7}} {
		if b.sw.refuses(o) {
			t.Errorf("%+v is refused for the panics of %+v", o, bad)
		}
	}
	if !b.sw.refuses(bad) || !slices.Equal(b.sw.Refused(), []uint64{7}) {
		t.Errorf("refused are %v, want 7", b.sw.Refused())
	}
	other := packet.Origin{Node: 3, VNI: 1, Epoch: 5}
	for range 2 * maxPanics {
		b.sw.chargeSender(other, time.Second)
		b.sw.chargeSender(bad, time.Second)
		b.sw.chargeSender(packet.Origin{Node: 0, Epoch: 9}, time.Second)
		b.sw.chargeSender(packet.Origin{Node: 4, Epoch: 9, Unnamed: true}, time.Second)
	}
	if got := b.sw.Refused(); !slices.Equal(got, []uint64{5, 7}) {
		t.Errorf("refused are %v, want 5 and 7", got)
	}
}

// An interface of another node is known by its node, its MAC and, if the datagram names it, its lease.
func TestOriginIsTheInterfaceOfItsNode(t *testing.T) {
	b := newTestbed(t)
	e := &Endpoint{Epoch: 7, MAC: macOf("far"), Node: 2}
	for name, tt := range map[string]struct {
		of     *Endpoint
		origin packet.Origin
		mac    ec2.MAC
		want   bool
	}{
		"named":        {e, packet.Origin{Node: 2, Epoch: 7}, macOf("far"), true},
		"unnamed":      {e, packet.Origin{Node: 2, Unnamed: true}, macOf("far"), true},
		"earlier":      {e, packet.Origin{Node: 2, Epoch: 6}, macOf("far"), false},
		"another node": {e, packet.Origin{Node: 3, Epoch: 7}, macOf("far"), false},
		"another MAC":  {e, packet.Origin{Node: 2, Epoch: 7}, macOf("near"), false},
		"no node":      {&Endpoint{Epoch: 7, MAC: macOf("far")}, packet.Origin{Epoch: 7}, macOf("far"), false},
		"nobody":       {nil, packet.Origin{Node: 2, Epoch: 7}, macOf("far"), false},
	} {
		b.frame.origin, b.frame.pkt.SrcMAC = tt.origin, tt.mac
		if got := b.frame.isOrigin(tt.of); got != tt.want {
			t.Errorf("%s: isOrigin = %v, want %v", name, got, tt.want)
		}
	}
}

// A relay counts what it writes.
func TestRelayCountsItsFrames(t *testing.T) {
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracker.Close() })
	sw, err := NewRelay(Config{Tracker: tracker})
	if err != nil {
		t.Fatal(err)
	}
	b := &testbed{t: t, sw: sw, tracker: tracker, ports: map[string]*Port{}, devices: map[string]*sink{}, frame: newFrame(sw)}
	t.Cleanup(sw.Close)
	b.add("one", InstancePort)
	b.add("two", InstancePort)
	b.add("three", InstancePort)
	frame := packettest.Build(template(17, addr("10.10.0.4"), addr("10.10.0.5"), 1, 2))
	for range 3 {
		b.frame.relay(b.ports["one"], copy(b.frame.buffer[offloadLen:], frame)+offloadLen)
	}
	b.frame.relay(b.ports["two"], copy(b.frame.buffer[offloadLen:], frame)+offloadLen)
	b.frame.relay(b.ports["three"], offloadLen) // it has no partner yet
	if n := b.devices["one"].count; n != 1 {
		t.Errorf("port one has sent %d frames of its partner, want 1", n)
	}
	if c := b.ports["two"].Counters(); c.TxFrames != 3 || c.TxBytes != uint64(3*len(frame)) || b.devices["two"].count != 3 || b.devices["three"].count != 0 {
		t.Errorf("port two has sent %d frames of %d bytes, want 3 of %d", c.TxFrames, c.TxBytes, 3*len(frame))
	}
}

// A frame to a public address whose interface has no port here, or to none, is not forwarded from the
// uplink, and keeps its addresses. Neither is one from here to an interface that nobody has.
func TestUplinkReachesOnlyPortsOfThisNode(t *testing.T) {
	b := newTestbed(t)
	pipe := b.tunnel(1500)
	e := b.sw.Edit(b.generation)
	e.AddEndpoint(1, &Endpoint{Epoch: 9, Address: addr("10.10.0.9"), Public: addr("198.18.0.9"), MAC: macOf("nobody")})
	b.sw.Publish(e)
	b.rules("web", permit(ec2.UDP, 53, 53, "0.0.0.0/0"))
	for address, want := range map[string]verdict.Verdict{"198.18.0.4": verdict.Forward, "198.18.0.7": verdict.NoRoute, "198.18.0.9": verdict.NoRoute, "198.18.0.99": verdict.NoRoute} {
		if tr := b.sw.Trace(b.ports["uplink"], outside(template(17, laptop, addr(address), 1000, 53))); want == verdict.NoRoute && tr.Flow.Dst != addr(address) {
			t.Errorf("a packet from outside to %s is for %s when it is dropped", address, tr.Flow.Dst)
		}
		_, v := b.send("uplink", outside(template(17, laptop, addr(address), 1000, 53)))
		if (v == verdict.Forward) != (want == verdict.Forward) {
			t.Errorf("a packet from outside to %s: %v, want %v", address, v, want)
		}
	}
	b.expect("web", b.of("web", template(17, addr("10.10.0.4"), addr("10.10.0.9"), 1000, 53)), "web", verdict.NoRoute)
	if pipe.sent != 0 {
		t.Errorf("%d frames for nobody were sent to another node", pipe.sent)
	}
}
