package storm

import (
	"encoding/binary"
	"errors"
	"time"

	"palisade/internal/bench/traffic"
	"palisade/internal/packet"
)

// A Probe is frames that no rule admits: TCP, UDP and ICMP, to every one of the hosts and ports
// in turn, each of another source port than those before.
type Probe struct {
	Device string        `json:"device"`
	Me     Host          `json:"me"`
	To     []Host        `json:"to"`
	Ports  []uint16      `json:"ports"`
	Rate   float64       `json:"rate"` // frames a second; 0 as fast as it goes
	For    time.Duration `json:"for"`
	Most   uint64        `json:"most"` // frames that the device takes
}

// A Probed is what was sent of a Probe.
type Probed struct {
	Taken   uint64        `json:"taken"`   // frames that the device took: these were sent
	Refused uint64        `json:"refused"` // that found its queue full
	Took    time.Duration `json:"took"`
}

func probe(p Probe) (*Probed, error) {
	if len(p.To) == 0 || len(p.Ports) == 0 {
		return nil, errors.New("a probe wants a host and a port")
	}
	// All are of one length, and only fields differ.
	type shape struct {
		frame    []byte
		checksum int // behind the beginning of the transport header; 0: none that covers ports
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
