// Package failpoint lets a test panic inside any call of the data path.
//
// Every function that a frame passes through calls Reach. Without the build tag failpoints
// Reach is empty and compiles to nothing; with it, it calls the test's function. A test in
// package pointtest finds functions without a call.
package failpoint
