package conntrack

import (
	"hash/crc32"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
)

// Ports is a range of TCP or UDP ports that ingress rules open to one source.
type Ports struct {
	Protocol uint8
	From, To uint16
	Source   uint32 // 0: the whole world; other numbers tell sources apart
}

// A portRange is a range of ports that a rule opened at an interface, in memory that outlives the
// process. While the rule is in force, until is inForce. When the rule is removed, the range is
// lost: until is the time at which it is forgotten, 180 s after the last packet that matched it.
//
// A lost range tells answers in a revoked connection from new connections of the interface, if the
// connection has no entry: it had not been answered, had expired, or found no room.
//
// The portRange with the protocol 0 tells until when an untracked connection of the zone may be
// without an entry because there was no room for it.
type portRange struct {
	sum      uint32 // checksum of the fields from protocol to to; 0 in a free slot
	protocol uint8
	_        [3]byte
	epoch    uint64 // of the zone's lease
	from, to uint16
	source   uint32
	until    int64 // time on the monotonic clock, in ns; the lowest bit is crowded; atomic
}

// crowded in a lost range means that a connection of these ports may be without an entry because
// there was no room for it.
const crowded = 1

const (
	portRangeSize = 32
	// portRanges is the number of ranges in the file. Further ones are kept in the memory of the
	// process.
	portRanges = 16_384
	// maxPortRanges bounds the lost ranges of a zone. At the bound the newest range of a protocol is
	// widened to include the next.
	maxPortRanges = 64
	inForce       = 1<<63 - 1
)

var _ [portRangeSize]byte = [unsafe.Sizeof(portRange{})]byte{}

func (r *portRange) checksum() uint32 {
	const from, to = unsafe.Offsetof(portRange{}.protocol), unsafe.Offsetof(portRange{}.until)
	covered := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(r), from)), to-from)
	return crc32.Update(1, castagnoli, covered) | 1
}

// A lostRange is what pollers use of a portRange that is lost: its ports, and until.
type lostRange struct {
	Ports
	stored *portRange
}

func (l *lostRange) holds(protocol uint8, port uint16) bool {
	return l.Protocol == protocol && l.From <= port && port <= l.To
}

// until returns 0 if the range was dropped, also if its place has a range in force now.
func (l *lostRange) until() time.Duration {
	until := atomic.LoadInt64(&l.stored.until)
	if until == inForce {
		return 0
	}
	return time.Duration(until)
}

func (r *portRange) ports() Ports { return Ports{r.protocol, r.from, r.to, r.source} }

// adoptPorts reads the ranges that an earlier process left in the file. Those with a wrong checksum are
// free: what they hold is overwritten before they get a right one.
func (t *Tracker) adoptPorts(a *arena) {
	t.ports = a.portRanges()
	t.adoptedPorts = map[uint64][]*portRange{}
	for i := range t.ports {
		r := &t.ports[i]
		if !a.fresh && r.sum == r.checksum() { // a checksum is never 0
			t.adoptedPorts[r.epoch] = append(t.adoptedPorts[r.epoch], r)
		} else {
			t.freePorts = append(t.freePorts, r)
		}
	}
}

// keepPortsLocked stores a range and returns its place.
func (t *Tracker) keepPortsLocked(epoch uint64, p Ports, until int64) *portRange {
	r := &portRange{}
	if n := len(t.freePorts); n > 0 {
		r, t.freePorts = t.freePorts[n-1], t.freePorts[:n-1]
	}
	r.epoch, r.protocol, r.from, r.to, r.source = epoch, p.Protocol, p.From, p.To, p.Source
	atomic.StoreInt64(&r.until, until)
	r.sum = r.checksum()
	return r
}

// dropPortsLocked frees ranges. A poller may still read their field until.
func (t *Tracker) dropPortsLocked(all []*portRange) {
	for _, r := range all {
		r.sum = 0
		atomic.StoreInt64(&r.until, 0)
		if i := uintptr(unsafe.Pointer(r)) - uintptr(unsafe.Pointer(&t.ports[0])); i < uintptr(len(t.ports))*portRangeSize {
			t.freePorts = append(t.freePorts, r)
		}
	}
}

// addPortsLocked gives a new zone the ranges of the file that belong to the same lease.
func (t *Tracker) addPortsLocked(z *Zone) {
	var lost []lostRange
	for _, r := range t.adoptedPorts[z.epoch] {
		switch {
		case r.protocol == 0:
			z.full = r
		case r.until == inForce:
			z.open = append(z.open, r)
		default:
			lost = append(lost, lostRange{r.ports(), r})
		}
	}
	delete(t.adoptedPorts, z.epoch)
	if z.full == nil {
		z.full = t.keepPortsLocked(z.epoch, Ports{}, 0)
	}
	z.lost.Store(&lost)
}

func (t *Tracker) removePortsLocked(z *Zone) {
	all := append(z.open, z.full)
	for _, l := range *z.lost.Load() {
		all = append(all, l.stored)
	}
	t.dropPortsLocked(all)
}

// SetOpen tells the zone which ports the rules of ingress open to connections that a revocation
// cuts. Ports that were open, also to an earlier process, and are not any more are lost: packets
// that leave from them are treated as answers in a revoked connection until no packet has matched
// the range for 180 s.
func (z *Zone) SetOpen(open []Ports, now time.Duration) {
	t := z.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	was := make([]Ports, len(z.open))
	for i, r := range z.open {
		was[i] = r.ports()
	}
	lost := *z.lost.Load()
	if len(lost) == 0 && slices.Equal(was, open) {
		return
	}
	var keep []lostRange
	var drop []*portRange
	for _, l := range lost {
		if now >= l.until() || len(without(l.Ports, open)) == 0 {
			drop = append(drop, l.stored)
		} else {
			keep = append(keep, l)
		}
	}
	until := int64(now+blockedTimeout) &^ crowded
	if z.missesEntries(now) {
		until |= crowded
	}
	for _, p := range was {
		for _, p := range without(p, open) {
			if i := newest(keep, p.Protocol); len(keep) >= maxPortRanges && i >= 0 {
				drop = append(drop, keep[i].stored)
				p, keep = p.widened(keep[i].Ports), slices.Delete(keep, i, i+1)
			}
			keep = append(keep, lostRange{p, t.keepPortsLocked(z.epoch, p, until)})
		}
	}
	next := z.open
	if !slices.Equal(was, open) {
		next = nil
		for _, p := range open {
			next = append(next, t.keepPortsLocked(z.epoch, p, inForce))
		}
		drop = append(drop, z.open...)
	}
	z.open = next
	z.lost.Store(&keep)
	t.dropPortsLocked(drop)
}

// newest returns the index of the last range of a protocol; -1 if there is none.
func newest(all []lostRange, protocol uint8) int {
	i := len(all) - 1
	for i >= 0 && all[i].Protocol != protocol {
		i--
	}
	return i
}

// widened returns the range that includes p and o, which have the same protocol. If they are of different
// sources, only a rule for the whole world opens it again.
func (p Ports) widened(o Ports) Ports {
	p.From, p.To = min(p.From, o.From), max(p.To, o.To)
	if p.Source != o.Source {
		p.Source = 0
	}
	return p
}

// without returns the parts of p that no range of open holds, for the source of p or for the world.
func without(p Ports, open []Ports) []Ports {
	rest := []Ports{p}
	for _, o := range open {
		if o.Protocol != p.Protocol || o.Source != 0 && o.Source != p.Source {
			continue
		}
		var next []Ports
		for _, r := range rest {
			if o.To < r.From || r.To < o.From {
				next = append(next, r)
				continue
			}
			if r.From < o.From {
				next = append(next, Ports{r.Protocol, r.From, o.From - 1, r.Source})
			}
			if o.To < r.To {
				next = append(next, Ports{r.Protocol, o.To + 1, r.To, r.Source})
			}
		}
		rest = next
	}
	return rest
}

// Lost reports whether a port is in a lost range, and whether an untracked connection of that port
// may be without an entry because there was no room for it.
func (z *Zone) Lost(protocol uint8, port uint16, now time.Duration) (lost, missing bool) {
	failpoint.Reach()
	for _, l := range *z.lost.Load() {
		if until := l.until(); l.holds(protocol, port) && now < until {
			lost, missing = true, missing || until&crowded != 0
		}
	}
	return lost, lost && (missing || z.missesEntries(now))
}

// Renew keeps the lost ranges that hold a port for another 180 s, because a packet matched them. It
// does not keep UDP ports if no connection is without an entry: every sender in the world could
// then stop the interface from opening UDP connections from these ports.
func (z *Zone) Renew(protocol uint8, port uint16, now time.Duration) {
	failpoint.Reach()
	for _, l := range *z.lost.Load() {
		until := l.until()
		if !l.holds(protocol, port) || now >= until {
			continue
		}
		missing := until&crowded != 0 || z.missesEntries(now)
		if protocol != packet.ProtocolTCP && !missing {
			continue
		}
		next := int64(now+blockedTimeout) &^ crowded
		if missing {
			next |= crowded
		}
		// If the range is dropped or renewed meanwhile, until has changed and stays.
		atomic.CompareAndSwapInt64(&l.stored.until, int64(until), next)
	}
}

// missEntry records that there was no room for the entry of an untracked connection.
func (z *Zone) missEntry(now time.Duration) {
	atomic.StoreInt64(&z.full.until, int64(now+blockedTimeout))
}

// missesEntries reports whether an untracked connection with packets in the last 180 s may be
// without an entry, because there was no room for it.
func (z *Zone) missesEntries(now time.Duration) bool {
	return now < time.Duration(atomic.LoadInt64(&z.full.until))
}
