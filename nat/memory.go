package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"palisade/internal/bootfile"
	"palisade/internal/failpoint"
)

// A memory is a page of header and the entries of a Table.
//
//	magic "palinat" + layout version | capacity | slots in use | boot id
type memory struct {
	bytes    []byte
	capacity int
	note     string
}

const (
	magicOfAll = "palinat"
	magic      = magicOfAll + "\x01"
	headerSize = 4096
	entrySize  = int(unsafe.Sizeof(entry{}))
)

type header struct {
	magic    [8]byte
	capacity uint32
	used     uint32 // no slot from here on was ever used
	boot     [16]byte
}

// An entry is one translation. sum covers what never changes, and is 0 in a free slot.
type entry struct {
	epoch            uint64
	inside, remote   uint32
	insidePort, port uint16 // of an ICMP query: its identifier
	remotePort       uint16 // of an ICMP query: 0
	protocol         uint8
	ended            flags // not covered by sum
	sum              uint32
	_                uint32
	last             int64 // time of the last packet, in ns; not covered by sum
}

type flags uint8

const (
	finOut flags = 1 << iota
	finIn
	reset
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (e *entry) checksum() uint32 {
	failpoint.Reach()
	var b [24]byte
	binary.LittleEndian.PutUint64(b[0:], e.epoch)
	binary.LittleEndian.PutUint32(b[8:], e.inside)
	binary.LittleEndian.PutUint32(b[12:], e.remote)
	binary.LittleEndian.PutUint16(b[16:], e.insidePort)
	binary.LittleEndian.PutUint16(b[18:], e.port)
	binary.LittleEndian.PutUint16(b[20:], e.remotePort)
	b[22] = e.protocol
	return crc32.Update(1, castagnoli, b[:]) | 1
}

func (e *entry) expired(now time.Duration) bool { return int64(now)-e.last >= int64(e.idle()) }

// idle returns how long the translation stays without packets.
func (e *entry) idle() time.Duration {
	switch {
	case e.ended&reset != 0:
		return resetIdle
	case e.ended&(finOut|finIn) == finOut|finIn:
		return closedIdle
	}
	return Idle
}

func openMemory(path string, capacity int) (m *memory, err error) {
	m = &memory{capacity: capacity}
	size := headerSize + capacity*entrySize
	want := header{magic: [8]byte([]byte(magic)), capacity: uint32(capacity)}
	if path == "" {
		m.bytes, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		return m, err
	}
	if want.boot, err = bootfile.Boot(); err != nil {
		return nil, err
	}
	f, err := bootfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping keeps the file open and locked until it is unmapped
	has := new(header)
	n, err := f.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(has)), unsafe.Sizeof(*has)), 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if n > 0 && has.magic != [8]byte{} && !strings.HasPrefix(string(has.magic[:]), magicOfAll) {
		return nil, fmt.Errorf("%s is not a file of translations: remove it, or configure another path", path)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	want.used = has.used
	fits := *has == want && st.Size() == int64(size)
	if !fits {
		if st.Size() > 0 {
			m.note = errSize.Error()
		}
		if err := errors.Join(f.Truncate(0), f.Truncate(int64(size))); err != nil {
			return nil, err
		}
	}
	if m.bytes, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	if !fits {
		want.used = 0
		*m.header() = want
	}
	return m, nil
}

func (m *memory) header() *header { return (*header)(unsafe.Pointer(&m.bytes[0])) }

func (m *memory) used() *uint32 { return &m.header().used }

func (m *memory) entries() []entry {
	return unsafe.Slice((*entry)(unsafe.Pointer(&m.bytes[headerSize])), m.capacity)
}

func (m *memory) close() error { return unix.Munmap(m.bytes) }

// adopt links the valid entries of the file, and frees all other slots.
func (t *Table) adopt() {
	used := t.memory.used()
	*used = min(*used, uint32(t.config.Capacity))
	for slot := range *used {
		e := &t.entries[slot]
		valid := e.sum != 0 && e.sum == e.checksum()
		if valid {
			_, taken := t.find(&t.in, e.inKey())
			_, twice := t.find(&t.out, e.outKey())
			valid = !taken && !twice
		}
		if !valid {
			*e = entry{}
			t.release(slot)
			continue
		}
		t.link(slot)
		t.adopted[e.epoch]++
	}
}
