package firewall

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"palisade/ec2"
)

// maxDescribed is how many rules, or refusals, a String lists.
const maxDescribed = 15

// String lists the rules in force for failing tests, at most 18 lines.
func (t *Table) String() string {
	if t == nil {
		return "no table: everything is denied\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "generation %d, shrunk at %d: %d rules\n", t.Generation, t.Shrunk, len(t.refs))
	if len(t.refs) == 0 {
		return b.String()
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERIAL\tRULE\tGROUP\tPROTOCOL\tPORTS\tSOURCE")
	for i := range t.refs[:min(len(t.refs), maxDescribed)] {
		r := &t.refs[i].Rule
		fmt.Fprintf(w, "%d\t%s\t%s\t%v\t%s\t%s\n", r.Serial, r.ID, t.refs[i].Group.Name, r.Protocol, rangeText(r), sourceText(r.Source))
	}
	w.Flush()
	if more := len(t.refs) - maxDescribed; more > 0 {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	return b.String()
}

// String lists the rules of a set in both directions for failing tests, at most 39 lines.
func (s *Set) String() string {
	return fmt.Sprintf("groups %v\ningress %vegress %v", s.Groups, s.Ingress, s.Egress)
}

// String describes the rule in one line: "sgr-1 of web: tcp 22-22 from 203.0.113.0/24".
func (r Ref) String() string {
	preposition := "from"
	if r.Rule.Direction == ec2.Egress {
		preposition = "to"
	}
	return fmt.Sprintf("%s of %s: %v %s %s %s", r.Rule.ID, r.Group.Name, r.Rule.Protocol, rangeText(&r.Rule), preposition, sourceText(r.Rule.Source))
}

// String describes the decision in one line.
func (d Decision) String() string {
	switch {
	case !d.Allowed:
		return "denied"
	case d.World:
		return fmt.Sprintf("allowed by rule %d, for everybody", d.Rule)
	}
	return fmt.Sprintf("allowed by rule %d", d.Rule)
}

// String describes the decision and its reasons in at most 17 lines.
func (e Explanation) String() string {
	if e.By != nil {
		text := fmt.Sprintf("%v\n%v", e.Decision, e.By)
		if e.Entry.IsValid() {
			text += fmt.Sprintf(", entry %s", e.Entry)
		}
		return text + "\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v by %d rules\n", e.Decision, len(e.Refusals))
	for _, r := range e.Refusals[:min(len(e.Refusals), maxDescribed)] {
		fmt.Fprintln(&b, r)
	}
	if more := len(e.Refusals) - maxDescribed; more > 0 {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	return b.String()
}

// rangeText returns "22-23" for ports, "8:0" for an ICMP type and code, and "all" for a
// rule without a range.
func rangeText(r *ec2.Rule) string {
	switch {
	case r.From == -1 && r.To == -1:
		return "all"
	case r.Protocol == ec2.ICMP || r.Protocol == ec2.ICMPv6:
		return fmt.Sprintf("%d:%d", r.From, r.To)
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

func sourceText(s ec2.Source) string {
	switch {
	case s.IsGroup():
		return string(s.Group.ID)
	case s.IsPrefixList():
		return string(s.PrefixList)
	}
	return s.Prefix.String()
}
