package ec2tools

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// An era is a generation of the tools. It decides the form of the output.
type era int

const (
	era2012 era = iota
	era2006
)

func eraOf(getenv func(string) string) (era, error) {
	switch v := getenv("EC2_TOOLS"); v {
	case "", "2012":
		return era2012, nil
	case "2006":
		return era2006, nil
	default:
		return 0, usagef("EC2_TOOLS=%s: must be 2006 or 2012, or unset", v)
	}
}

// line prints one line of columns.
func line(w io.Writer, columns ...string) {
	fmt.Fprintln(w, strings.Join(columns, "\t"))
}

// printGroup prints a group as ec2-describe-group shows it.
//
// 2006 (EC2 Developer Guide, "Default Group"; the tool's columns):
//
//	GROUP       OWNER  NAME  DESCRIPTION
//	PERMISSION  NAME  ALLOWS  PROTOCOL  FROM-PORT  TO-PORT  FROM  SOURCE
//
// 2012 (EC2 User Guide, "Viewing Security Groups"); the last column of GROUP is the VPC:
//
//	GROUP       ID  OWNER  NAME  DESCRIPTION  VPC
//	PERMISSION  OWNER  NAME  ALLOWS  PROTOCOL  FROM-PORT  TO-PORT  FROM  SOURCE  ingress
func (e era) printGroup(w io.Writer, g group) {
	if e == era2006 {
		line(w, "GROUP", g.Owner, g.Name, g.Description)
		for _, r := range foldAll(rulesOf(g.Permissions)) {
			line(w, append([]string{"PERMISSION", g.Name}, e.ruleColumns(r, ingress)...)...)
		}
		return
	}
	line(w, "GROUP", g.ID, g.Owner, g.Name, g.Description, g.VPC)
	for _, r := range rulesOf(g.Permissions) {
		line(w, append([]string{"PERMISSION", g.Owner, g.Name}, e.ruleColumns(r, ingress)...)...)
	}
	for _, r := range rulesOf(g.Egress) {
		line(w, append([]string{"PERMISSION", g.Owner, g.Name}, e.ruleColumns(r, egress)...)...)
	}
}

// printRules prints the rules that ec2-authorize or ec2-revoke added to g or removed from
// it. In the era of 2012 the line of the group has only its id, and the columns for owner and name stay
// empty (EC2 User Guide, "Adding a Security Group Rule": GROUP sg-2eac845a, PERMISSION
// ALLOWS tcp 80 80 …). In that of 2006 it has only the name (EC2 Developer Guide, "Default
// Group", step 4).
func (e era) printRules(w io.Writer, g group, rules []rule, d direction) {
	if e == era2006 {
		line(w, "GROUP", "", g.Name)
		for _, r := range foldAll(rules) {
			line(w, append([]string{"PERMISSION", "", g.Name}, e.ruleColumns(r, d)...)...)
		}
		return
	}
	line(w, "GROUP", g.ID, "", "", "", "")
	for _, r := range rules {
		line(w, append([]string{"PERMISSION", "", ""}, e.ruleColumns(r, d)...)...)
	}
}

// direction is the last column of a PERMISSION line. It also decides whether the line says
// FROM or TO.
type direction string

const (
	ingress direction = "ingress"
	egress  direction = "egress"
)

// A rule is one line of output: a permission with one source.
type rule struct {
	protocol string // "tcp"; "-1" is all protocols; "all" is tcp, udp and icmp together
	from, to string // empty for a protocol without ports
	source   source
}

// A source is a CIDR, a group, or a prefix list.
type source struct {
	cidr            string
	owner, name, id string
	prefixList      string
}

func (e era) ruleColumns(r rule, d direction) []string {
	word := "FROM"
	if d == egress {
		word = "TO"
	}
	protocol := r.protocol
	if protocol == allProtocols {
		protocol = "all"
	}
	columns := []string{"ALLOWS", protocol, r.from, r.to, word}
	switch {
	case r.source.cidr != "":
		columns = append(columns, "CIDR", r.source.cidr)
	case r.source.prefixList != "":
		columns = append(columns, "PREFIXLIST", r.source.prefixList)
	case e == era2006:
		columns = append(columns, "USER", r.source.owner, "GRPNAME", r.source.name)
	default:
		// The tools of 2012 print NAME and ID in one column with the value, and
		// scripts that split at tabs rely on it.
		columns = append(columns, "USER", r.source.owner)
		if r.source.name != "" {
			columns = append(columns, "NAME "+r.source.name)
		}
		if r.source.id != "" {
			columns = append(columns, "ID "+r.source.id)
		}
	}
	if e == era2006 {
		return columns
	}
	return append(columns, string(d))
}

// foldAll replaces the three rules that admit a group on every protocol and port by one
// rule with the protocol "all". In 2006, group sources had no protocol (EC2 Developer
// Guide, "Default Group", step 2). The new rule takes the place of the first of the three.
func foldAll(rules []rule) []rule {
	protocols := make(map[source]int) // number of such rules by source
	for _, r := range rules {
		if r.everyPort() {
			protocols[r.source]++
		}
	}
	var out []rule
	folded := make(map[source]bool)
	for _, r := range rules {
		switch {
		case !r.everyPort() || protocols[r.source] < 3:
			out = append(out, r)
		case !folded[r.source]:
			out = append(out, rule{protocol: "all", source: r.source})
			folded[r.source] = true
		}
	}
	return out
}

// everyPort reports whether r is one of the three rules that "all" stands for.
func (r rule) everyPort() bool {
	if r.source.cidr != "" {
		return false
	}
	switch r.protocol {
	case "tcp", "udp":
		return (r.from == "0" || r.from == "1") && r.to == "65535"
	case "icmp":
		return r.from == "-1" && r.to == "-1"
	}
	return false
}

// stamp formats the time in an answer as the tools do: 2012-10-12T14:47:45+0000.
func stamp(xmlTime string) string {
	t, err := time.Parse(time.RFC3339, xmlTime)
	if err != nil {
		return xmlTime
	}
	return t.UTC().Format("2006-01-02T15:04:05-0700")
}

// isIPv6 reports whether cidr is an IPv6 block.
func isIPv6(cidr string) bool {
	p, err := netip.ParsePrefix(cidr)
	return err == nil && p.Addr().Is6()
}
