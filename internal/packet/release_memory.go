package packet

import (
	"os"
	"runtime/debug"
	"unsafe"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// ReleaseMemory returns memory to the kernel in a process that decodes no frames: the tables of 5 MiB
// that gopacket fills when it is initialized, and the garbage of other packages'
// initialization. Afterwards no other function of this package may be called.
func ReleaseMemory() {
	for _, table := range [][]byte{
		unsafe.Slice((*byte)(unsafe.Pointer(&layers.EthernetTypeMetadata)), unsafe.Sizeof(layers.EthernetTypeMetadata)),
		unsafe.Slice((*byte)(unsafe.Pointer(&layers.PPPTypeMetadata)), unsafe.Sizeof(layers.PPPTypeMetadata)),
	} {
		page := uintptr(os.Getpagesize())
		begin := uintptr(unsafe.Pointer(&table[0]))
		skip := (page - begin%page) % page
		whole := (uintptr(len(table)) - skip) / page * page
		unix.Madvise(table[skip:skip+whole], unix.MADV_DONTNEED) // the tables read as zero from here on
	}
	debug.FreeOSMemory()
}
