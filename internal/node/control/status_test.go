package node

import (
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

// A faulty device panics when it is written to.
type faulty struct{ *taptest.Device }

func (faulty) Write([]byte) error { panic("planted") }

// TestStatusNamesShutPorts: an operator sees that the switch panicked, and whose frames it
// drops for that.
func TestStatusNamesShutPorts(t *testing.T) {
	d := newDrawing(t)
	wide := d.group("wide", tcp(80, everywhere))
	register := func(device string) *ec2.Interface {
		return d.do(&ec2.RegisterInterface{Account: dev, Region: region, Node: "node1", Outside: ec2.Outside{Device: device},
			Spec: ec2.InterfaceSpec{Subnet: d.public.ID, Groups: []ec2.GroupID{wide}}}).Interface
	}
	web, db := register("web"), register("db")
	device := d.device()
	for eni, with := range map[uint64]vswitch.Device{web.Epoch: device, db.Epoch: faulty{d.device()}} {
		if err := d.node.plane.attach(eni, with); err != nil {
			t.Fatal(err)
		}
	}
	if s := d.node.status(); s.Panics != 0 || len(s.Shut) != 0 {
		t.Errorf("before anything has panicked the status has %d panics and %v shut", s.Panics, s.Shut)
	}
	frame := packettest.Build(packettest.Frame{
		Flow:   packet.Flow{Src: web.Private, Dst: db.Private, SrcPort: 1, DstPort: 80, Protocol: packet.ProtocolTCP},
		SrcMAC: web.MAC, DstMAC: vswitch.GatewayMAC, TCPFlags: packet.SYN,
	})
	for range 100 {
		if err := device.Send(frame); err != nil {
			t.Fatal(err)
		}
		d.node.sw.Step()
	}
	if s := d.node.status(); s.Panics != 100 || !slices.Equal(s.Shut, []string{string(web.ID)}) {
		t.Errorf("behind 100 panics the status has %d panics and %v shut, want %s", s.Panics, s.Shut, web.ID)
	}
}
