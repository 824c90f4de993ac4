package conntrack

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An arena is the memory of all shards: a page of header, each shard's slots, and the port ranges.
//
//	magic "palict" + layout version | slots per shard: tracked, untracked | hash seed
//
// A change of the layout or of the hash needs a new version. A file of an old version is
// replaced: losing connections at an upgrade is better than reading them wrongly.
type arena struct {
	memory             []byte
	seed               [2]uint64
	tracked, untracked int // slots per shard
	// fresh means that the memory is new and all zero. Fresh slots are not read, because
	// reading a page of a tmpfs allocates it.
	fresh bool
}

const (
	arenaMagic  = "palict\x00\x03"
	arenaHeader = 4096
)

func openArena(path string, tracked, untracked int) (*arena, error) {
	a := &arena{tracked: tracked, untracked: untracked}
	size := arenaHeader + shardCount*(tracked+untracked)*entrySize + portRanges*portRangeSize
	var err error
	if path == "" {
		a.fresh = true
		a.memory, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	} else {
		a.memory, a.fresh, err = mapFile(path, size)
	}
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of connections at %q: %w", size, path, err)
	}
	if !a.headerFits() {
		if err := a.format(); err != nil {
			return nil, errors.Join(err, a.close())
		}
	}
	a.seed[0] = binary.NativeEndian.Uint64(a.memory[16:])
	a.seed[1] = binary.NativeEndian.Uint64(a.memory[24:])
	return a, nil
}

// mapFile maps the file at path and reports whether the memory is fresh. Only the file's
// owner may read the file, because it holds the seed that keeps the hash unpredictable. A
// file of another size is removed and created again, not truncated, because a process that
// still maps the old file would be killed when it reads a missing page.
func mapFile(path string, size int) (memory []byte, fresh bool, err error) {
	st, err := os.Lstat(path)
	if err == nil && (st.Size() != int64(size) || !st.Mode().IsRegular()) {
		if err := os.Remove(path); err != nil {
			return nil, false, err
		}
		fresh = true
	} else if fresh = err != nil; fresh && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	// The mapping keeps the file open and locked until it is unmapped.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, false, fmt.Errorf("in use by another process: %w", err)
	}
	if err := f.Truncate(int64(size)); err != nil {
		return nil, false, err
	}
	memory, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return memory, fresh, err
}

func (a *arena) headerFits() bool {
	return string(a.memory[:8]) == arenaMagic &&
		binary.NativeEndian.Uint32(a.memory[8:]) == uint32(a.tracked) &&
		binary.NativeEndian.Uint32(a.memory[12:]) == uint32(a.untracked)
}

// format empties the arena and writes a header. It writes the magic last, so that a header
// that was written in part is not valid.
func (a *arena) format() error {
	clear(a.memory[:arenaHeader])
	for i := range shardCount * (a.tracked + a.untracked) {
		if a.fresh {
			break
		}
		if e := (*entry)(unsafe.Pointer(&a.memory[arenaHeader+i*entrySize])); e.sum != 0 {
			*e = entry{}
		}
	}
	if !a.fresh {
		clear(a.portRanges())
	}
	if _, err := rand.Read(a.memory[16:32]); err != nil {
		return err
	}
	binary.NativeEndian.PutUint32(a.memory[8:], uint32(a.tracked))
	binary.NativeEndian.PutUint32(a.memory[12:], uint32(a.untracked))
	copy(a.memory, arenaMagic)
	return nil
}

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
