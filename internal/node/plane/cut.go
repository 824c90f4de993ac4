package plane

import (
	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	vswitch "palisade/switch"
)

// cut carries out the cuts that were decided since the state that this node has enforced, also those
// that were decided while its daemon did not run.
func (p *Plane) cut(view *state.View) {
	cuts := view.CutsAfter(p.enforcedIndex.index)
	if len(cuts) == 0 {
		return
	}
	networks := map[uint64]ec2.VNI{} // by epoch
	for eni := range view.Interfaces() {
		networks[eni.Epoch] = eni.VNI
	}
	for _, c := range cuts {
		n := p.tracker.Cut(vswitch.Now(), func(t conntrack.Connection) bool {
			return c.Selects(networks[t.Epoch], t.Rule, t.Flow.Src, t.Flow.Dst)
		})
		p.log.Info("connections cut", "index", c.Index, "connections", n)
	}
}
