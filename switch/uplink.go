package vswitch

import (
	"fmt"
	"net/netip"

	"palisade/ec2"
	"palisade/internal/packet"
)

// An Uplink is the port to everything that is no instance.
type Uplink struct {
	Port    *Port
	MAC     ec2.MAC // what the segment knows this node by
	NextHop ec2.MAC // the router
	MTU     int
}

// UplinkPort returns the uplink in force, or nil.
func (s *Snapshot) UplinkPort() *Uplink { return s.uplink }

// Announce tells the segment behind the uplink that a public address is here now, so
// that its neighbours forget where it was. It does nothing without an uplink.
func (s *Switch) Announce(address netip.Addr) error {
	up := s.snapshot.Load().uplink
	if up == nil {
		return nil
	}
	buffer := make([]byte, offloadLen+64)
	frame := packet.Announcement(buffer[offloadLen:], up.MAC, address)
	if err := up.Port.device.Write(buffer[:offloadLen+len(frame)]); err != nil {
		return fmt.Errorf("announce %s: %w", address, err)
	}
	return nil
}
