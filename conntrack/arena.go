package conntrack

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"palisade/internal/bootfile"
)

// An arena is the memory of all shards: a page of header, each shard's slots, and the port ranges.
//
//	magic "palict" + layout version | slots per shard: tracked, untracked | hash seed | boot id
//
// A change of the layout or of the hash needs a new version, and a function in convert.go that
// reads the entries of the old one.
type arena struct {
	memory             []byte
	seed               [2]uint64
	tracked, untracked int // slots per shard
	// fresh means that the memory is new and all zero. Fresh slots are not read, because
	// reading a page of a tmpfs allocates it.
	fresh bool
	// old has the connections that the arena is to get: Tracker.convert fills the arena and
	// gives it the path of the old file. nil: there is nothing to convert.
	old  *oldArena
	note string // why connections were lost; "" if none were
}

const (
	magicOfAll  = "palict" // of all versions of the layout
	arenaMagic  = magicOfAll + "\x00\x03"
	arenaHeader = 4096
)

// A header is the first bytes of an arena.
type header struct {
	magic              [8]byte
	tracked, untracked uint32 // slots per shard
	seed               [2]uint64
	boot               [16]byte // in layout 2 it is zero
}

func (h *header) slots() int64 { return shardCount * (int64(h.tracked) + int64(h.untracked)) }

// size returns the size of a file of the present layout.
func (h *header) size() int64 {
	return arenaHeader + h.slots()*entrySize + portRanges*portRangeSize
}

// openArena opens the arena in a file, or in anonymous memory if path is "".
func openArena(path string, tracked, untracked int) (*arena, error) {
	a := &arena{tracked: tracked, untracked: untracked}
	want := header{magic: [8]byte([]byte(arenaMagic)), tracked: uint32(tracked), untracked: uint32(untracked)}
	if err := a.open(path, &want); err != nil {
		return nil, fmt.Errorf("open %d bytes of connections at %q: %w", want.size(), path, err)
	}
	a.seed = a.header().seed
	return a, nil
}

func (a *arena) open(path string, want *header) (err error) {
	size := int(want.size())
	if path == "" {
		a.memory, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return err
		}
		return a.format(want)
	}
	if want.boot, err = bootfile.Boot(); err != nil {
		return err
	}
	f, err := bootfile.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // a mapping keeps the file open and locked until it is unmapped
	has, length, err := readHeader(f)
	if err != nil {
		return err
	}
	fits := *has == header{want.magic, want.tracked, want.untracked, has.seed, want.boot} && length == int64(size)
	if fits {
		a.memory, err = mapFile(f, size)
		return err
	}
	if a.old, a.note, err = openOld(f, has, length, want.boot); err != nil {
		return err
	}
	if a.old == nil {
		return a.create(f, want)
	}
	// The connections stay in the old file until the new one, which is written beside it, has them.
	beside, err := bootfile.Open(path + besideSuffix)
	if err == nil {
		defer beside.Close()
		err = a.create(beside, want)
	}
	if err != nil {
		return errors.Join(err, a.old.close())
	}
	return nil
}

// besideSuffix ends the name of the file that replaces an old one.
const besideSuffix = ".new"

// readHeader returns the header of a file, which is zero in an empty file, and the file's length.
func readHeader(f *os.File) (*header, int64, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	has := new(header)
	_, err = f.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(has)), unsafe.Sizeof(*has)), 0)
	if err == io.EOF { // the file is shorter than a header
		err = nil
	}
	if err == nil && has.magic != [8]byte{} && !strings.HasPrefix(string(has.magic[:]), magicOfAll) {
		err = fmt.Errorf("%s is not a file of connections: remove it, or configure another path", f.Name())
	}
	return has, st.Size(), err
}

// create makes f an arena without connections. Nobody else has f mapped, because f is locked.
func (a *arena) create(f *os.File, h *header) (err error) {
	size := h.size()
	if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
		return err
	}
	if a.memory, err = mapFile(f, int(size)); err != nil {
		return err
	}
	return a.format(h)
}

func mapFile(f *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// format writes the header into new memory, the magic last, so that a header that was written in
// part is not valid. Only the file's owner may read the seed, which keeps the hash unpredictable.
// Connections of an old file keep its seed. With another one they would be spread differently, and
// more of them could fall to one shard than it has slots.
func (a *arena) format(want *header) error {
	a.fresh = true
	h := a.header()
	*h = header{tracked: want.tracked, untracked: want.untracked, boot: want.boot}
	if a.old != nil {
		h.seed = a.old.seed
	} else if _, err := rand.Read(unsafe.Slice((*byte)(unsafe.Pointer(&h.seed)), unsafe.Sizeof(h.seed))); err != nil {
		return errors.Join(err, a.close())
	}
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&h.magic)), binary.NativeEndian.Uint64(want.magic[:]))
	return nil
}

func (a *arena) header() *header { return (*header)(unsafe.Pointer(&a.memory[0])) }

// slots returns the slots of one shard, the tracked ones first.
func (a *arena) slots(shard int) []entry {
	n := a.tracked + a.untracked
	first := unsafe.Pointer(&a.memory[arenaHeader+shard*n*entrySize])
	return unsafe.Slice((*entry)(first), n)
}

// portRanges returns the port ranges of all zones.
func (a *arena) portRanges() []portRange {
	first := unsafe.Pointer(&a.memory[len(a.memory)-portRanges*portRangeSize])
	return unsafe.Slice((*portRange)(first), portRanges)
}

func (a *arena) close() error { return unix.Munmap(a.memory) }
