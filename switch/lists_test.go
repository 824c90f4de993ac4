package vswitch

import (
	"testing"

	"palisade/firewall"
)

// The revision of an interface whose rules name prefix lists follows the last change of an entry.
func TestRevisionFollowsPrefixLists(t *testing.T) {
	b := newTestbed(t)
	e := b.sw.Edit(b.generation)
	e.Lists(&firewall.Lists{Generation: b.generation + 2, Shrunk: b.generation + 1})
	b.sw.Publish(e)
	b.frame.snapshot = b.sw.Snapshot()
	a := *b.frame.snapshot.attachment(b.ports["web"])
	if got := b.frame.revision(&a); got != a.revision {
		t.Errorf("rules without prefix lists have the revision %+v, want %+v", got, a.revision)
	}
	a.listed = true
	if got := b.frame.revision(&a); got.Generation != b.generation+2 || got.Shrunk != b.generation+1 {
		t.Errorf("rules with prefix lists have the revision %+v, want generation %d, shrunk %d", got, b.generation+2, b.generation+1)
	}
}
