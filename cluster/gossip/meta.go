package gossip

import (
	"bytes"
	"encoding/binary"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// A node's meta, which memberlist carries with its address:
//
//	+--------+------+---------+--------+----------+
//	| format | boot | version | digest | enforced |
//	| 1      | 8    | 8       | 32     | 8        |
//	+--------+------+---------+--------+----------+
const (
	metaFormat = 1
	metaSize   = 1 + 8 + 8 + 32 + 8
)

// encodeMeta brings this node's meta up to date, and reports whether it changed.
func (g *Gossip) encodeMeta() bool {
	c := g.board.own()
	meta := []byte{metaFormat}
	meta = binary.BigEndian.AppendUint64(meta, c.Boot)
	meta = binary.BigEndian.AppendUint64(meta, c.Version)
	meta = append(meta, c.Digest[:]...)
	meta = binary.BigEndian.AppendUint64(meta, g.cfg.Enforced())
	if was := g.meta.Swap(&meta); was != nil && bytes.Equal(*was, meta) {
		return false
	}
	return true
}

func decodeMeta(node string, meta []byte) (c claim, enforced uint64, ok bool) {
	if len(meta) != metaSize || meta[0] != metaFormat {
		return claim{}, 0, false
	}
	c = claim{Node: ec2.NodeID(node), Boot: binary.BigEndian.Uint64(meta[1:]), Version: binary.BigEndian.Uint64(meta[9:])}
	copy(c.Digest[:], meta[17:])
	return c, binary.BigEndian.Uint64(meta[49:]), true
}

// metaLags reports whether this node's meta names an older enforced index than it will
// name soon.
func (g *Gossip) metaLags(view *state.View) bool {
	return binary.BigEndian.Uint64((*g.meta.Load())[49:]) < view.Index()
}

// advertise sends this node's meta, if it changed, with the next round of gossip.
func (g *Gossip) advertise(s *session) {
	if !g.encodeMeta() || s == nil {
		return
	}
	// The timeout is how long to wait for the sending; nobody waits for it.
	_ = s.list.UpdateNode(time.Millisecond)
}
