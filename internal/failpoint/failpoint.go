// Package failpoint lets a test panic inside any function of the data path.
//
// Every function of the data path calls Reach. Without the build tag failpoints, Reach is
// empty and compiles to nothing. With the tag, Reach calls the function that a test has
// set. A test in package pointtest finds the functions that do not call Reach.
package failpoint
