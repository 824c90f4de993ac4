package vswitch

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"palisade/firewall"
	"palisade/internal/verdict"
)

// The most lines of each part of Describe. Together with the connections and a Trace the parts have
// fewer than 100 lines.
const (
	describedPorts    = 8
	describedVerdicts = 16
	describedRules    = 20
	describedTrace    = 20
)

// Describe returns the state of the switch for failing tests: its ports, the verdicts at each of them, the
// live connections, and the rules in force.
func (s *Switch) Describe(now time.Duration) string {
	snapshot := s.snapshot.Load()
	var ports, verdicts, rules strings.Builder
	w := tabwriter.NewWriter(&ports, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PORT\tLEASE\tADDRESS\tRX FRAMES\tTX FRAMES")
	v := tabwriter.NewWriter(&verdicts, 0, 0, 2, ' ', 0)
	fmt.Fprintln(v, "PORT\tVERDICT\tPACKETS\tMEANING")
	var sets []*firewall.Set
	names := map[*firewall.Set][]string{} // names of the ports that have the set
	for _, p := range s.Ports() {
		lease, address := "none", "none"
		if a := snapshot.attachment(p); a != nil {
			lease, address = fmt.Sprint(a.Endpoint.Epoch), a.Endpoint.Address.String()
			if names[a.Rules] == nil {
				sets = append(sets, a.Rules)
			}
			names[a.Rules] = append(names[a.Rules], p.name)
		}
		c := p.Counters()
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", p.name, lease, address, c.RxFrames, c.TxFrames)
		for i, n := range c.Verdicts {
			if n > 0 {
				fmt.Fprintf(v, "%s\t%v\t%d\t%s\n", p.name, verdict.Verdict(i), n, verdict.Verdict(i).Meaning())
			}
		}
	}
	w.Flush()
	v.Flush()
	for _, set := range sets {
		fmt.Fprintf(&rules, "rules at %s: %v", strings.Join(names[set], ", "), set)
	}
	return fmt.Sprintf("generation %d\n", snapshot.Generation) + firstLines(ports.String(), describedPorts) +
		firstLines(verdicts.String(), describedVerdicts) + s.tracker.Describe(now) + firstLines(rules.String(), describedRules)
}

// String describes the way of a traced packet, and for each interface that the packet crossed its
// connection, or the rules that admitted or refused it.
func (t Trace) String() string {
	var b strings.Builder
	at := "no port"
	if t.At != nil {
		at = t.At.name
	}
	fmt.Fprintf(&b, "%v: %v at %s: %s\n", t.Flow, t.Verdict, at, t.Verdict.Meaning())
	for _, s := range t.Steps {
		fmt.Fprintf(&b, "%v of %v, connection %v", s.Direction, s.Endpoint.Address, s.Connection)
		if s.Asked {
			fmt.Fprintf(&b, ", %v", s.Table.Explain(s.Flow.Protocol, s.Key, s.Peer))
		} else {
			fmt.Fprintln(&b)
		}
	}
	return firstLines(b.String(), describedTrace)
}

// firstLines returns the first n lines of a text, and a line with the number of lines left out.
func firstLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	if len(lines) <= n+1 {
		return text
	}
	return strings.Join(lines[:n], "") + fmt.Sprintf("and %d more lines\n", len(lines)-1-n)
}
