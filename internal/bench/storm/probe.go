package storm

import (
	"encoding/binary"
	"errors"
	"time"

	"palisade/internal/bench/traffic"
	"palisade/internal/packet"
)

// A Probe sends frames that no rule admits: TCP, UDP and ICMP, to all hosts and ports in turn.
// The source port changes from frame to frame.
type Probe struct {
	Device string        `json:"device"`
	Me     Host          `json:"me"`
	To     []Host        `json:"to"`
	Ports  []uint16      `json:"ports"`
	Rate   float64       `json:"rate"` // frames each second; 0: as fast as possible
	For    time.Duration `json:"for"`
	Most   uint64        `json:"most"` // ends after the device has taken so many frames; 0: no bound
}

// A Probed is the result of a Probe.
type Probed struct {
	Taken   uint64        `json:"taken"`   // frames that the device took and sent
	Refused uint64        `json:"refused"` // frames that the device refused because its queue was full
	Took    time.Duration `json:"took"`
}

func probe(p Probe) (*Probed, error) {
	if len(p.To) == 0 || len(p.Ports) == 0 {
		return nil, errors.New("a probe needs a host and a port")
	}
	// All frames have the same length; only their fields differ.
	type shape struct {
		frame    []byte
		checksum int // its offset in the transport header; 0: no checksum covers the ports
	}
	var shapes []shape
	for _, to := range p.To {
		for _, kind := range []struct {
			protocol          uint8
			flags             byte
			payload, checksum int
		}{
			{packet.ProtocolTCP, packet.SYN, 0, 16}, {packet.ProtocolUDP, 0, 12, 6},
			{packet.ProtocolTCP, packet.ACK, 0, 16}, {packet.ProtocolUDP, 0, 12, 6},
			{packet.ProtocolTCP, packet.SYN | packet.ACK, 0, 16}, {packet.ProtocolICMP, 0, 12, 0},
			{packet.ProtocolTCP, packet.RST, 0, 16},
		} {
			frame, err := template(p.Me, to, kind.protocol, 1, kind.payload)
			if err != nil {
				return nil, err
			}
			if kind.protocol == packet.ProtocolTCP {
				frame[transportAt+13] = kind.flags
			}
			shapes = append(shapes, shape{frame, kind.checksum})
		}
	}
	number := uint32(0)
	sent, err := traffic.SendFrames(traffic.FrameStream{
		Device: p.Device, Frame: shapes[0].frame, Rate: p.Rate, For: p.For, Most: p.Most,
		Next: func(frame []byte) {
			s := shapes[number%uint32(len(shapes))]
			copy(frame, s.frame)
			if s.checksum > 0 {
				binary.BigEndian.PutUint16(frame[transportAt:], uint16(firstPort+number/7%sourcePorts))
				binary.BigEndian.PutUint16(frame[transportAt+2:], p.Ports[number/uint32(len(shapes))%uint32(len(p.Ports))])
				setChecksum(frame, s.checksum)
			}
			number++
		},
	})
	return &Probed{Taken: sent.Offered - sent.Refused, Refused: sent.Refused, Took: sent.Took}, err
}
