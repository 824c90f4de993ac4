package oracle

import (
	"slices"

	"palisade/ec2"
	"palisade/internal/packet"
)

// An opening is a range of UDP ports that a rule opens, to the world or, in a strict VPC, to anybody.
type opening struct {
	from, to int
	source   ec2.Source
	version  int // of a prefix list
}

// openings returns the openings of each interface, by epoch.
func (w *world) openings() map[uint64][]opening {
	all := map[uint64][]opening{}
	if w.view == nil {
		return all
	}
	for _, eni := range w.interfaces() {
		n, _ := w.view.Network(eni.VNI)
		for _, id := range eni.Groups {
			g, _ := w.view.Group(id)
			for _, r := range g.Rules {
				world := r.Source.IsPrefixList() || r.Source.Prefix.IsValid() && r.Source.Prefix.Bits() == 0
				if r.Direction == ec2.Egress || !world && n.Mode != ec2.TrackStrict || r.Protocol != ec2.UDP && r.Protocol != ec2.AnyProtocol {
					continue
				}
				o := opening{from: r.From, to: r.To, source: r.Source}
				if l, ok := w.view.PrefixList(r.Source.PrefixList); ok {
					o.version = l.Version
				}
				if r.Protocol == ec2.AnyProtocol {
					o.from, o.to = 0, 65535
				}
				all[eni.Epoch] = append(all[eni.Epoch], o)
			}
		}
	}
	return all
}

// noticeLost remembers the openings that are gone.
func (w *world) noticeLost(before map[uint64][]opening) {
	now := w.openings()
	for epoch, were := range before {
		for _, o := range were {
			if !slices.Contains(now[epoch], o) {
				w.lost[epoch] = append(w.lost[epoch], o)
			}
		}
	}
}

// opensConnection reports whether a packet that is delivered opens connections at both ends. A datagram from
// a port that rules opened until a moment ago may be an answer in a connection that was cut, so it opens none
// (ARCHITECTURE.md, "Ports whose rule was removed").
func (w *world) opensConnection(p *probe) bool {
	if p.from == nil || p.flow.Protocol != packet.ProtocolUDP {
		return true
	}
	return !slices.ContainsFunc(w.lost[p.from.Epoch], func(o opening) bool { return o.from <= int(p.flow.SrcPort) && int(p.flow.SrcPort) <= o.to })
}
