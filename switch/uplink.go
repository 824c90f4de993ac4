package vswitch

import (
	"fmt"
	"net/netip"

	"palisade/ec2"
	"palisade/internal/packet"
)

// An Uplink is the port to all hosts that are no instances.
type Uplink struct {
	Port    *Port
	MAC     ec2.MAC // of this node, on the segment behind the uplink
	NextHop ec2.MAC // of the router behind the uplink
	MTU     int     // bytes of the largest IP packet
}

// UplinkPort returns the uplink in force, or nil.
func (s *Snapshot) UplinkPort() *Uplink { return s.uplink }

// Announce tells the hosts on the segment behind the uplink that a public address is at this node
// now, so that they correct their neighbour entries (RFC 5227 §2.3). Without an uplink it does
// nothing.
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
