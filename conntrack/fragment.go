package conntrack

import (
	"sync"
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

const (
	maxDatagrams    = 4096 // incomplete datagrams; further ones are dropped
	maxZone         = 1024 // incomplete datagrams of one zone, so that none takes the whole table
	fragmentTimeout = 30 * time.Second
	maxRanges       = 4 // separate ranges of a datagram; with more of them the datagram is dropped
)

// fragments is a table of the datagrams whose first fragment was admitted. Later fragments
// carry no ports and follow the first one's verdict; without a first they are dropped as
// orphans. An overlap poisons the whole datagram, because it could replace bytes that were
// judged (RFC 1858, RFC 5722 §3). A complete datagram is removed at once: a fast sender
// soon uses its identification again, and that new datagram must not count as an overlap or
// fill the table.
//
// mu guards all fields, and is a leaf. A full table drops first fragments.
type fragments struct {
	mu        sync.Mutex
	datagrams map[fragmentKey]*datagram
	zones     map[uint32]int // incomplete datagrams, by zone
	free      []*datagram
}

type fragmentKey struct {
	zone      uint32
	direction Direction
	src, dst  [16]byte
	id        uint16
	protocol  uint8
}

type datagram struct {
	key      fragmentKey
	deadline time.Duration
	ranges   [maxRanges][2]int32 // received [from, to) in bytes, ascending, with gaps between them
	count    int
	end      int32 // length of the datagram; 0 until its last fragment was received
	poisoned bool
}

func (f *fragments) init() {
	f.datagrams = make(map[fragmentKey]*datagram, maxDatagrams)
	f.zones = map[uint32]int{}
	all := make([]datagram, maxDatagrams) // the only allocation
	for i := range all {
		f.free = append(f.free, &all[i])
	}
}

func keyOfFragment(zone uint32, d Direction, p *packet.Packet) fragmentKey {
	return fragmentKey{zone: zone, direction: d, src: p.Flow.Src.As16(), dst: p.Flow.Dst.As16(), id: p.FragID, protocol: p.Flow.Protocol}
}

func (f *fragments) first(zone uint32, d Direction, p *packet.Packet, now time.Duration) verdict.Verdict {
	failpoint.Reach()
	f.mu.Lock()
	defer f.mu.Unlock()
	k := keyOfFragment(zone, d, p)
	g := f.datagrams[k]
	if g != nil && now < g.deadline {
		return f.cover(g, p)
	}
	if g == nil {
		// A full table is not searched for expired datagrams, because during a flood every
		// poller would wait for the search. Sweep frees expired datagrams.
		if len(f.free) == 0 || f.zones[zone] >= maxZone {
			return verdict.FragmentsFull
		}
		g = f.free[len(f.free)-1]
		f.free = f.free[:len(f.free)-1]
		f.datagrams[k] = g
		f.zones[zone]++
	}
	*g = datagram{key: k, deadline: now + fragmentTimeout}
	return f.cover(g, p)
}

func (f *fragments) later(zone uint32, d Direction, p *packet.Packet, now time.Duration) verdict.Verdict {
	failpoint.Reach()
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.datagrams[keyOfFragment(zone, d, p)]
	if g == nil || now >= g.deadline {
		return verdict.OrphanFragment
	}
	return f.cover(g, p)
}

// cover adds a fragment to its datagram and removes the datagram if it is complete. It
// returns OverlapFrag if the datagram is poisoned, otherwise Forward.
func (f *fragments) cover(g *datagram, p *packet.Packet) verdict.Verdict {
	failpoint.Reach()
	from, to := int32(p.FragOffset), int32(p.FragOffset+p.FragLen)
	if !g.poisoned {
		g.poisoned = !g.ends(to, p.MoreFollow) || !g.add(from, to)
	}
	if g.poisoned {
		return verdict.OverlapFrag
	}
	if g.count == 1 && g.ranges[0] == [2]int32{0, g.end} {
		f.removeLocked(g)
	}
	return verdict.Forward
}

// ends reports whether a fragment's end agrees with the length of the datagram, which the
// last fragment determines.
func (g *datagram) ends(to int32, more bool) bool {
	switch {
	case more:
		return g.end == 0 || to <= g.end
	case g.end != 0 || g.count > 0 && g.ranges[g.count-1][1] > to:
		return false
	}
	g.end = to
	return true
}

// add records the range [from, to). It returns false if the range overlaps another one, or
// if there are too many separate ranges.
func (g *datagram) add(from, to int32) bool {
	failpoint.Reach()
	i := 0
	for i < g.count && g.ranges[i][1] < from {
		i++
	}
	if i < g.count && g.ranges[i][1] == from {
		if i+1 < g.count && g.ranges[i+1][0] < to {
			return false
		}
		g.ranges[i][1] = to
		if i+1 < g.count && g.ranges[i+1][0] == to {
			g.ranges[i][1] = g.ranges[i+1][1]
			copy(g.ranges[i+1:], g.ranges[i+2:g.count])
			g.count--
		}
		return true
	}
	if i < g.count && g.ranges[i][0] < to {
		return false
	}
	if i < g.count && g.ranges[i][0] == to {
		g.ranges[i][0] = from
		return true
	}
	if g.count == maxRanges {
		return false
	}
	copy(g.ranges[i+1:g.count+1], g.ranges[i:g.count])
	g.ranges[i] = [2]int32{from, to}
	g.count++
	return true
}

func (f *fragments) sweep(now time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.purgeLocked(func(g *datagram) bool { return now >= g.deadline })
}

func (f *fragments) purgeIf(gone func(*fragmentKey) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.purgeLocked(func(g *datagram) bool { return gone(&g.key) })
}

func (f *fragments) purgeLocked(gone func(*datagram) bool) {
	for _, g := range f.datagrams {
		if gone(g) {
			f.removeLocked(g)
		}
	}
}

func (f *fragments) removeLocked(g *datagram) {
	failpoint.Reach()
	delete(f.datagrams, g.key)
	f.free = append(f.free, g)
	if f.zones[g.key.zone]--; f.zones[g.key.zone] == 0 {
		delete(f.zones, g.key.zone)
	}
}
