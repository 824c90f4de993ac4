package vswitch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// epollNow looks for readable descriptors without sleeping. It bypasses the scheduler of
// goroutines, because the call never blocks.
func epollNow(epoll int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
