//go:build failpoints

package failpoint

import (
	"runtime"
	"sync/atomic"
)

var hook atomic.Pointer[func(function string)]

// Set has f called with the full name of each function that reaches a point, on the goroutine
// that does; nil: none is. f may panic.
func Set(f func(function string)) {
	if f == nil {
		hook.Store(nil)
		return
	}
	hook.Store(&f)
}

// Reach calls the function that was Set.
func Reach() {
	f := hook.Load()
	if f == nil {
		return
	}
	var pc [1]uintptr
	runtime.Callers(2, pc[:])
	frame, _ := runtime.CallersFrames(pc[:]).Next()
	(*f)(frame.Function)
}
