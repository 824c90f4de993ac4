package gossip

import (
	"bytes"
	"encoding/binary"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// memberlist sends a node's meta with the node's address. Lengths are in bytes:
//
//	+--------+------+---------+--------+----------+
//	| format | boot | version | digest | enforced |
//	| 1      | 8    | 8       | 32     | 8        |
//	+--------+------+---------+--------+----------+
const (
	metaFormat = 1
	metaSize   = 1 + 8 + 8 + 32 + 8
)

// updateMeta sets this node's meta to the current values, and reports whether it changed.
func (g *Gossip) updateMeta() bool {
	c := g.board.ownClaim()
	meta := []byte{metaFormat}
	meta = binary.BigEndian.AppendUint64(meta, c.Boot)
	meta = binary.BigEndian.AppendUint64(meta, c.Version)
	meta = append(meta, c.Digest[:]...)
	meta = binary.BigEndian.AppendUint64(meta, g.cfg.Enforced())
	before := g.meta.Swap(&meta)
	return before == nil || !bytes.Equal(*before, meta)
}

func decodeMeta(node string, meta []byte) (c claim, enforced uint64, ok bool) {
	if len(meta) != metaSize || meta[0] != metaFormat {
		return claim{}, 0, false
	}
	c = claim{Node: ec2.NodeID(node), Boot: binary.BigEndian.Uint64(meta[1:]), Version: binary.BigEndian.Uint64(meta[9:])}
	copy(c.Digest[:], meta[17:])
	return c, binary.BigEndian.Uint64(meta[49:]), true
}

// metaIsOld reports whether this node's meta has a lower enforced index than the View. Then
// the meta must soon be updated, because the switch will enforce the View.
func (g *Gossip) metaIsOld(view *state.View) bool {
	return binary.BigEndian.Uint64((*g.meta.Load())[49:]) < view.Index()
}

// advertise updates this node's meta. If it changed, memberlist sends it in the next round of
// gossip.
func (g *Gossip) advertise(a *activeList) {
	if !g.updateMeta() || a == nil {
		return
	}
	// UpdateNode waits only this long, but memberlist sends the meta in any case.
	_ = a.list.UpdateNode(time.Millisecond)
}
