package control

import (
	"slices"
	"testing"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

// A faulty device panics in Write.
type faulty struct{ *taptest.Device }

func (faulty) Write([]byte) error { panic("planted") }

// TestStatusListsShutPorts: the status shows how often the switch panicked, and which port was shut
// because its frames caused the panics.
func TestStatusListsShutPorts(t *testing.T) {
	f := planetest.New(t)
	s := newServer(f)
	var err error
	s.Cluster, err = cluster.New(cluster.Config{Node: planetest.Node, Dir: t.TempDir(), Bootstrap: planetest.Bootstrap(), Logger: s.Logger})
	if err != nil {
		t.Fatal(err)
	}
	wide := f.Group("wide", planetest.TCP(80, planetest.Everywhere))
	register := func(device string) *ec2.Interface {
		return f.Do(&state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: "node1", External: ec2.ExternalDevice{Device: device},
			Spec: state.InterfaceSpec{Subnet: f.Public.ID, Groups: []ec2.GroupID{wide}}}).Interface
	}
	web, db := register("web"), register("db")
	device := f.Device()
	for eni, with := range map[uint64]vswitch.Device{web.Epoch: device, db.Epoch: faulty{f.Device()}} {
		if err := f.Plane.Attach(eni, with); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.status(); got.Panics != 0 || len(got.Shut) != 0 {
		t.Errorf("before any panic the status has %d panics, shut ports %v; want 0 and no port", got.Panics, got.Shut)
	}
	frame := packettest.Build(packettest.Frame{
		Flow:   packet.Flow{Src: web.Private, Dst: db.Private, SrcPort: 1, DstPort: 80, Protocol: packet.ProtocolTCP},
		SrcMAC: web.MAC, DstMAC: vswitch.GatewayMAC, TCPFlags: packet.SYN,
	})
	for range 100 {
		if err := device.Send(frame); err != nil {
			t.Fatal(err)
		}
		f.Switch.Step()
	}
	if got := s.status(); got.Panics != 100 || !slices.Equal(got.Shut, []string{string(web.ID)}) {
		t.Errorf("after 100 panics the status has %d panics, shut ports %v; want 100 and %s", got.Panics, got.Shut, web.ID)
	}
}
