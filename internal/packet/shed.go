package packet

import (
	"os"
	"runtime/debug"
	"unsafe"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Shed gives back to the kernel what this process holds and does not need because it never
// decodes a frame: tables that gopacket fills when it is initialized, 5 MiB in every
// process of this binary, and what the initialization of other packages left behind. Of
// this package nothing may be called after it.
func Shed() {
	for _, table := range [][]byte{
		unsafe.Slice((*byte)(unsafe.Pointer(&layers.EthernetTypeMetadata)), unsafe.Sizeof(layers.EthernetTypeMetadata)),
		unsafe.Slice((*byte)(unsafe.Pointer(&layers.PPPTypeMetadata)), unsafe.Sizeof(layers.PPPTypeMetadata)),
	} {
		page := uintptr(os.Getpagesize())
		begin := uintptr(unsafe.Pointer(&table[0]))
		skip := (page - begin%page) % page
		whole := (uintptr(len(table)) - skip) / page * page
		unix.Madvise(table[skip:skip+whole], unix.MADV_DONTNEED) // they are zero from here on
	}
	debug.FreeOSMemory()
}
