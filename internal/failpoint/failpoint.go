// Package failpoint lets a test panic inside any call of the data path.
//
// Every function of the data path calls Reach. Without the build tag failpoints, Reach is
// empty and compiles to nothing. With the tag, Reach calls the test's function. A test in
// package pointtest finds functions without this call.
package failpoint
