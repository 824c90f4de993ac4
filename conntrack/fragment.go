package conntrack

import (
	"sync"
	"time"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

const (
	maxDatagrams    = 4096 // fragmented datagrams under way; further ones are dropped
	fragmentTimeout = 30 * time.Second
	maxRanges       = 4 // gaps a datagram may have; an honest sender leaves none
)

// fragments remembers which first fragments were admitted. Later ones carry no ports
// and inherit their verdict; without a first they are orphans. Overlaps poison the whole
// datagram, since the bytes that were judged could be replaced (RFC 1858, RFC 5722 §3).
type fragments struct {
	mu        sync.Mutex
	datagrams map[fragmentKey]*datagram
	spare     []datagram // all there are; allocated once
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
	ranges   [maxRanges][2]int32 // covered [from, to), ascending, not touching
	count    int
	poisoned bool
}

func (f *fragments) init() {
	f.datagrams = make(map[fragmentKey]*datagram, maxDatagrams)
	f.spare = make([]datagram, maxDatagrams)
	for i := range f.spare {
		f.free = append(f.free, &f.spare[i])
	}
}

func keyOfFragment(zone uint32, d Direction, p *packet.Packet) fragmentKey {
	return fragmentKey{zone: zone, direction: d, src: p.Flow.Src.As16(), dst: p.Flow.Dst.As16(), id: p.FragID, protocol: p.Flow.Protocol}
}

func (f *fragments) first(zone uint32, d Direction, p *packet.Packet, now time.Duration) verdict.Verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := keyOfFragment(zone, d, p)
	g := f.datagrams[k]
	if g != nil && now < g.deadline {
		return f.cover(g, p)
	}
	if g == nil {
		if len(f.free) == 0 {
			f.expireLocked(now)
		}
		if len(f.free) == 0 {
			return f.orphan()
		}
		g = f.free[len(f.free)-1]
		f.free = f.free[:len(f.free)-1]
		f.datagrams[k] = g
	}
	*g = datagram{key: k, deadline: now + fragmentTimeout}
	return f.cover(g, p)
}

func (f *fragments) later(zone uint32, d Direction, p *packet.Packet, now time.Duration) verdict.Verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.datagrams[keyOfFragment(zone, d, p)]
	if g == nil || now >= g.deadline {
		return f.orphan()
	}
	return f.cover(g, p)
}

func (f *fragments) orphan() verdict.Verdict { return verdict.OrphanFragment }

// cover adds a fragment's bytes to those the datagram has.
func (f *fragments) cover(g *datagram, p *packet.Packet) verdict.Verdict {
	from, to := int32(p.FragOffset), int32(p.FragOffset+p.FragLen)
	if !g.poisoned {
		g.poisoned = !g.add(from, to)
	}
	if g.poisoned {
		return verdict.OverlapFrag
	}
	return verdict.Forward
}

// add reports false where [from, to) overlaps or would leave too many gaps.
func (g *datagram) add(from, to int32) bool {
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
	f.expireLocked(now)
}

func (f *fragments) expireLocked(now time.Duration) {
	f.forgetLocked(func(g *datagram) bool { return now >= g.deadline })
}

func (f *fragments) purge(zone uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked(func(g *datagram) bool { return g.key.zone == zone })
}

func (f *fragments) forgetLocked(gone func(*datagram) bool) {
	for k, g := range f.datagrams {
		if gone(g) {
			delete(f.datagrams, k)
			f.free = append(f.free, g)
		}
	}
}
