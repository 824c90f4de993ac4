package conntrack

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// maxDescribed is how many connections Describe lists.
const maxDescribed = 20

// Describe returns the zone's live connections as a table for failing tests, at most 23 lines.
func (z *Zone) Describe(now time.Duration) string {
	return fmt.Sprintf("zone of lease %d: %d tracked, %d of them reserved\n", z.epoch, z.shares[tracked].used.Load(), min(z.shares[tracked].used.Load(), z.shares[tracked].reserve)) +
		describe(slices.DeleteFunc(slices.Collect(z.tracker.Connections(now)), func(c Connection) bool { return c.Epoch != z.epoch }))
}

// Describe returns the live connections of all zones as a table for failing tests, at most 23 lines.
func (t *Tracker) Describe(now time.Duration) string {
	u := t.Usage()
	return fmt.Sprintf("%d tracked of %d, %d untracked\n", u.Tracked, u.Capacity, u.Untracked) +
		describe(slices.Collect(t.Connections(now)))
}

// describe returns a table of connections, those with the most packets first.
func describe(all []Connection) string {
	if len(all) == 0 {
		return ""
	}
	slices.SortFunc(all, func(a, b Connection) int {
		return cmp.Or(
			cmp.Compare(b.Packets[original]+b.Packets[reply], a.Packets[original]+a.Packets[reply]),
			cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Flow.String(), b.Flow.String()))
	})
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LEASE\tFLOW\tOPENED BY\tSTATE\tRULE\tPACKETS\tREPLIES\tEXPIRES IN")
	for _, c := range all[:min(len(all), maxDescribed)] {
		fmt.Fprintf(w, "%d\t%v\t%s\t%s\t%d\t%d\t%d\t%v\n",
			c.Epoch, c.Flow, c.openedBy(), c.status(), c.Rule, c.Packets[original], c.Packets[reply], c.Expires)
	}
	w.Flush()
	if more := len(all) - maxDescribed; more > 0 {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	return b.String()
}

// String describes the connection in one line.
func (c Connection) String() string {
	return fmt.Sprintf("%v, lease %d, opened by the %s, %s, rule %d, packets %d, replies %d, expires in %v",
		c.Flow, c.Epoch, c.openedBy(), c.status(), c.Rule, c.Packets[original], c.Packets[reply], c.Expires)
}

func (c Connection) openedBy() string {
	if c.Outside {
		return "peer"
	}
	return "interface"
}

func (c Connection) status() string {
	switch {
	case c.Blocked:
		return c.State + ", blocked"
	case !c.Tracked:
		return c.State + ", untracked"
	}
	return c.State
}

// String returns "in" or "out".
func (d Direction) String() string {
	if d == Out {
		return "out"
	}
	return "in"
}

var statusNames = [...]string{New: "new", Reused: "new, on the ports of an earlier one", Live: "live", Checked: "checked", Stale: "stale", Blocked: "blocked"}

func (s Status) String() string { return statusNames[s] }

// String describes the answer in one line.
func (a Answer) String() string {
	text := a.Status.String()
	if a.Outside {
		text += ", opened by the peer"
	}
	if a.Reply {
		text += ", a reply"
	}
	if a.Untracked {
		text += ", untracked"
	}
	return text
}

// String describes the revision in one line.
func (r Revision) String() string {
	text := fmt.Sprintf("generation %d, shrunk at %d", r.Generation, r.Shrunk)
	if r.Reset > 0 {
		text += fmt.Sprintf(", reset at %d", r.Reset)
	}
	if r.Strict {
		text += ", strict"
	}
	return text
}
