package control

import (
	"slices"
	"strings"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/verdict"
)

// PortDrops is one port in GET /v1/drops.
type PortDrops struct {
	Node     ec2.NodeID `json:"node"`
	Port     string     `json:"port"`         // id of an instance, for its first interface; id of another interface; "uplink" or "tunnel"
	Of       *Whose     `json:"of,omitempty"` // the interface; nil for the uplink and the tunnel
	RxFrames uint64     `json:"rx_frames"`    // received by the switch from this port
	TxFrames uint64     `json:"tx_frames"`    // sent by the switch to this port
	// QueueDrops counts frames that the kernel dropped because the queue to the switch was full.
	QueueDrops uint64         `json:"queue_drops"`
	Verdicts   []VerdictCount `json:"verdicts"` // counted at this port, most frequent first
	// ACLs are the entries of network ACLs that denied packets with the verdict acl-denied, up to 16.
	ACLs []ACLDenial `json:"acls,omitempty"`
}

// VerdictCount is how many packets got one verdict.
type VerdictCount struct {
	Verdict string `json:"verdict"`
	Packets uint64 `json:"packets"`
	Drops   bool   `json:"drops"`
	Meaning string `json:"meaning"`
}

func (s *Server) drops() []PortDrops {
	all := []PortDrops{}
	view := s.Plane.View()
	for _, port := range s.Switch.Ports() {
		c := port.Counters()
		d := PortDrops{Node: s.Node, Port: port.Name(), RxFrames: c.RxFrames, TxFrames: c.TxFrames, Verdicts: []VerdictCount{}, ACLs: denialsAt(port)}
		if dropped, err := port.QueueDrops(); err != nil {
			s.Logger.Warn("queue drops of a port not read", "port", port.Name(), "err", err)
		} else {
			d.QueueDrops = dropped
		}
		if eni := interfaceAt(view, port.Name()); eni != nil {
			w := whoseOf(view, eni)
			d.Of = &w
		}
		for v, count := range c.Verdicts {
			if count > 0 {
				v := verdict.Verdict(v)
				d.Verdicts = append(d.Verdicts, VerdictCount{Verdict: v.String(), Packets: count, Drops: v.Drops(), Meaning: v.Meaning()})
			}
		}
		slices.SortStableFunc(d.Verdicts, func(a, b VerdictCount) int { return int(min(b.Packets, 1<<62)) - int(min(a.Packets, 1<<62)) })
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b PortDrops) int { return strings.Compare(a.Port, b.Port) })
	return all
}

// interfaceAt returns the interface of the port with this name; nil if the port is of none.
func interfaceAt(view *state.View, port string) *ec2.Interface {
	if view == nil {
		return nil
	}
	id := ec2.InterfaceID(port)
	if in, ok := view.Instance(ec2.InstanceID(port)); ok {
		id = in.Interface
	}
	eni, _ := view.Interface(id)
	return eni
}
