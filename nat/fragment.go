package nat

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"palisade/internal/failpoint"
	"palisade/internal/packet"
)

// fragments knows the UDP datagrams whose first fragment was translated. The later ones have no ports. A
// full set of places loses the datagram that it has had for longest. mu guards places, and is a leaf.
type fragments struct {
	mu     sync.Mutex
	seed   maphash.Seed
	places []datagram
}

type fragmentKey struct {
	epoch    uint64
	src, dst uint32
	id       uint16
}

type datagram struct {
	key    fragmentKey
	inside uint32
	until  time.Duration // 0: free
}

const (
	fragmentSets    = 512
	placesOfSet     = 4
	fragmentTimeout = 30 * time.Second
)

func (f *fragments) init() {
	f.seed, f.places = maphash.MakeSeed(), make([]datagram, fragmentSets*placesOfSet)
}

func (g *Gateway) fragment(p *packet.Packet) fragmentKey {
	return fragmentKey{g.epoch, bits(p.Flow.Src), bits(p.Flow.Dst), p.FragID}
}

func (f *fragments) placesOf(k fragmentKey) []datagram {
	first := int(maphash.Comparable(f.seed, k)%fragmentSets) * placesOfSet
	return f.places[first : first+placesOfSet]
}

// admit stores a datagram from or to an inside address.
func (f *fragments) admit(k fragmentKey, inside netip.Addr, now time.Duration) {
	failpoint.Reach()
	f.mu.Lock()
	defer f.mu.Unlock()
	set := f.placesOf(k)
	oldest := &set[0]
	for i := range set {
		if set[i].key == k {
			oldest = &set[i]
			break
		}
		if set[i].until < oldest.until {
			oldest = &set[i]
		}
	}
	*oldest = datagram{k, bits(inside), now + fragmentTimeout}
}

// find returns the inside address of a datagram.
func (f *fragments) find(k fragmentKey, now time.Duration) (netip.Addr, bool) {
	failpoint.Reach()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.placesOf(k) {
		if d.key == k && d.until > now {
			return address(d.inside), true
		}
	}
	return netip.Addr{}, false
}

func (f *fragments) knows(k fragmentKey, now time.Duration) bool {
	_, ok := f.find(k, now)
	return ok
}
