//go:build failpoints

package failpoint

import (
	"runtime"
	"sync/atomic"
)

var hook atomic.Pointer[func(function string)]

// Set makes Reach call f with the full name of its caller, on the caller's goroutine. f may
// panic. If f is nil, Reach does nothing.
func Set(f func(function string)) {
	if f == nil {
		hook.Store(nil)
		return
	}
	hook.Store(&f)
}

// Reach calls the function that was passed to Set, with the full name of Reach's caller.
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
