// Package prefetch loads memory into the processor's cache before it is needed. Go has no
// statement for this. A prefetch is only a hint: it changes no memory, needs no
// synchronization, and any address is allowed.
package prefetch
