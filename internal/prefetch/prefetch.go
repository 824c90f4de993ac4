// Package prefetch has memory brought into the processor's cache before it is wanted: the
// one thing that Go has no word for. It is a hint without a meaning for any program, so
// nothing has to be synchronized with it, and the address may be anything.
package prefetch
