package conntrack

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An oldArena is a file whose connections move into a new one, because the file has an older layout
// or other sizes. The file stays as it is until the new one has all of them.
type oldArena struct {
	path   string
	seed   [2]uint64
	memory []byte
	// entries calls yield for each connection of the file whose checksum is right.
	entries func(memory []byte, yield func(entry))
	ports   []portRange // nil in layout 2
}

func (o *oldArena) close() error { return unix.Munmap(o.memory) }

// openOld maps a file that has header h and length bytes, and whose connections can be kept. If
// they cannot, it returns nil and a note that says why, which is "" if the file has none.
func openOld(f *os.File, h *header, length int64, boot [16]byte) (_ *oldArena, note string, err error) {
	o := &oldArena{path: f.Name(), seed: h.seed}
	var size int64
	switch magic := string(h.magic[:]); {
	case magic == "\x00\x00\x00\x00\x00\x00\x00\x00": // empty, or the process that made it was killed
		return nil, "", nil
	case length < arenaHeader:
		return nil, fmt.Sprintf("the file has only %d bytes", length), nil
	case magic == magicV2:
		size, o.entries = arenaHeader+h.slots()*entrySizeV2, entriesOfV2
	case magic != arenaMagic:
		return nil, "the file has a layout that this release does not know", nil
	case h.boot != boot:
		return nil, "the file is of another boot of the machine", nil
	default:
		size, o.entries = h.size(), entriesOf
	}
	if length != size {
		return nil, fmt.Sprintf("the file has %d bytes, not %d as its header says", length, size), nil
	}
	o.memory, err = unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == nil && string(h.magic[:]) == arenaMagic {
		o.ports = (&arena{memory: o.memory}).portRanges()
	}
	return o, "", err
}

// convert moves the connections of the old file into the arena and gives the arena's file the
// path of the old one. If the process is killed before that, the next one starts again with the old
// file.
func (t *Tracker) convert() error {
	a, o := t.arena, t.arena.old
	a.old, a.fresh = nil, false
	lost := 0
	var used [shardCount][2]int
	place := func(e entry) {
		hash, _ := t.homeOf(&e)
		shard, pool, size, first := hash>>58, tracked, a.tracked, 0
		if e.has(isUntracked) {
			pool, size, first = untracked, a.untracked, a.tracked
		}
		n := &used[shard][pool]
		if *n == size {
			lost++
			return
		}
		e.seal()
		a.slots(int(shard))[first+*n] = e
		*n++
	}
	// If the new file is smaller, the connections that may not be evicted go first.
	o.entries(o.memory, func(e entry) {
		if e.mayStay() {
			place(e)
		}
	})
	o.entries(o.memory, func(e entry) {
		if !e.mayStay() {
			place(e)
		}
	})
	copy(a.portRanges(), o.ports)
	if lost > 0 {
		a.note = fmt.Sprintf("%d connections have no room in the smaller file", lost)
	}
	return errors.Join(os.Rename(o.path+besideSuffix, o.path), o.close())
}

// mayStay reports whether a connection may not be evicted.
func (e *entry) mayStay() bool { return e.has(isBlocked) || !e.has(isUntracked) && e.assured() }

func entriesOf(memory []byte, yield func(entry)) {
	end := len(memory) - portRanges*portRangeSize
	for at := arenaHeader; at < end; at += entrySize {
		if e := (*entry)(unsafe.Pointer(&memory[at])); e.sum != 0 && e.sum == e.checksum() {
			yield(*e)
		}
	}
}

// Layout 2 is that of commit 61b88d2: a header without a boot id, the slots, and no port ranges.
const (
	magicV2     = magicOfAll + "\x00\x02"
	entrySizeV2 = 128
)

// An entryV2 is an entry of layout 2. sum covers the fields from zone to revision. TCP windows
// were not stored, so those of a converted connection are unknown until its next packets.
type entryV2 struct {
	sum      uint32
	zone     uint32 // the low half of epoch
	src, dst [16]byte
	srcPort  uint16
	dstPort  uint16
	protocol uint8
	flags    uint8 // as in layout 3
	_        [2]byte
	epoch    uint64
	rule     uint64
	revision uint64

	state    uint8 // as in layout 3
	fins     uint8 // bit 0: the end that opened the connection has sent FIN; bit 1: the other end
	_        [6]byte
	deadline time.Duration
	created  time.Duration
	bytes    [2]uint64
	packets  [2]uint32
	_        [8]byte
}

var _ [entrySizeV2]byte = [unsafe.Sizeof(entryV2{})]byte{}

func (e *entryV2) checksum() uint32 {
	const from, to = unsafe.Offsetof(entryV2{}.zone), unsafe.Offsetof(entryV2{}.state)
	covered := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(e), from)), to-from)
	return crc32.Update(1, castagnoli, covered) | 1
}

// entry returns the connection in the present layout.
func (e *entryV2) entry() entry {
	now := entry{
		src: e.src, dst: e.dst, srcPort: e.srcPort, dstPort: e.dstPort, protocol: e.protocol, flags: flags(e.flags),
		epoch: e.epoch, rule: e.rule, revision: e.revision, state: state(e.state), deadline: e.deadline,
		created: uint32(e.created / time.Second), packets: e.packets,
	}
	for w := range way(2) {
		now.addBytes(w, e.bytes[w])
		if e.fins>>w&1 != 0 {
			now.tcp |= finSent.of(w)
		}
	}
	return now
}

func entriesOfV2(memory []byte, yield func(entry)) {
	for at := arenaHeader; at < len(memory); at += entrySizeV2 {
		e := (*entryV2)(unsafe.Pointer(&memory[at]))
		if e.sum != 0 && e.sum == e.checksum() && int(e.state) < len(stateNames) {
			yield(e.entry())
		}
	}
}
