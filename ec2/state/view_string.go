package state

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"palisade/ec2"
)

// describedLines is the maximum number of lines that String returns.
const describedLines = 40

// String describes the View for a person who reads a failed test: its index, then its nodes,
// groups with their rules, instances, and interfaces with their addresses. It has at most
// describedLines lines; long sections end with the number of lines that are left out.
func (v *View) String() string {
	lines := []string{fmt.Sprintf("state at index %d, %s", v.Index(), v.Time().Format(time.RFC3339))}
	sections := [][]string{v.describeNodes(), v.describeGroups(), v.describeInstances(), v.describeInterfaces()}
	for _, s := range shorten(sections, describedLines-len(lines)) {
		lines = append(lines, s...)
	}
	return strings.Join(lines, "\n")
}

// shorten returns the sections. It cuts the longest ones until all together have at most limit
// lines.
func shorten(sections [][]string, limit int) [][]string {
	shown := make([]int, len(sections))
	total := 0
	for n, s := range sections {
		shown[n] = len(s)
		total += len(s)
	}
	for ; total > limit; total-- {
		longest := slices.Index(shown, slices.Max(shown))
		shown[longest]--
	}
	for n, s := range sections {
		if hidden := len(s) - shown[n]; hidden > 0 {
			sections[n] = append(slices.Clone(s[:shown[n]-1]), fmt.Sprintf("  … and %d more lines", hidden+1))
		}
	}
	return sections
}

func (v *View) describeNodes() []string {
	return aligned(func(line func(...any)) {
		for n := range v.Nodes() {
			role, state := "voter", "member"
			if n.Role == ec2.NonVoter {
				role = "non-voter"
			}
			if !n.Member() {
				state = string(n.State)
			}
			line("node", n.ID, n.Zone, role, state, fmt.Sprintf("number %d", n.Number))
		}
	})
}

func (v *View) describeGroups() []string {
	return aligned(func(line func(...any)) {
		for g := range v.Groups() {
			line("group", g.ID, g.Name, "account "+g.Account, orDash(g.VPC))
			for i := range g.Rules {
				r := &g.Rules[i]
				source := r.Source.Prefix.String()
				if r.Source.IsPrefixList() {
					source = string(r.Source.PrefixList)
				}
				if r.Source.IsGroup() {
					source = string(r.Source.Group.ID)
				}
				line("  rule", r.ID, r.Direction, protocolText(r), source)
			}
		}
	})
}

// protocolText returns the protocol of a rule and its range: "tcp 22 to 23".
func protocolText(r *ec2.Rule) string {
	switch {
	case r.Protocol == ec2.AnyProtocol:
		return "all"
	case r.Protocol == ec2.ICMP || r.Protocol == ec2.ICMPv6:
		return fmt.Sprintf("%s type %s code %s", r.Protocol, numberOrAll(r.From), numberOrAll(r.To))
	case r.Protocol.HasRange():
		return fmt.Sprintf("%s %d to %d", r.Protocol, r.From, r.To)
	}
	return r.Protocol.String()
}

func (v *View) describeInstances() []string {
	return aligned(func(line func(...any)) {
		for i := range v.Instances() {
			line("instance", i.ID, i.State, "account "+i.Account, orDash(i.Node), orDash(i.Interface), orDash(i.VPC))
		}
	})
}

func (v *View) describeInterfaces() []string {
	return aligned(func(line func(...any)) {
		for i := range v.Interfaces() {
			at := orDash(i.Instance)
			if i.External != nil {
				at = i.External.String()
			}
			var addresses []string
			for _, p := range i.Addresses() {
				text := p.Private.String()
				if p.Public.IsValid() {
					text += "/" + p.Public.String()
				}
				addresses = append(addresses, text)
			}
			line("interface", i.ID, i.State, fmt.Sprintf("epoch %d", i.Epoch), orDash(i.Node), at, strings.Join(addresses, " "), i.Groups)
		}
	})
}

// aligned returns the lines that write makes, with their columns aligned.
func aligned(write func(line func(...any))) []string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	write(func(columns ...any) {
		for n, c := range columns {
			if n > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, c)
		}
		fmt.Fprintln(w)
	})
	_ = w.Flush() // a strings.Builder returns no error
	text := strings.TrimSuffix(b.String(), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func orDash[S ~string](s S) string {
	if s == "" {
		return "-"
	}
	return string(s)
}
