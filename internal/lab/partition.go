package lab

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"palisade/internal/netns"
)

// A Cut is nodes that no other node hears, and that hear no other, on the underlay. Among
// themselves they are one side. The internet reaches both sides.
type Cut struct {
	Nodes  []string `json:"nodes"`
	Gossip bool     `json:"gossip,omitempty"` // gossip alone is cut
}

// Partition makes a cut, beside those there are, until Heal.
func (l *Lab) Partition(ctx context.Context, cut Cut) error {
	for i, node := range cut.Nodes {
		if err := l.hasNode(node); err != nil {
			return err
		}
		if slices.Contains(cut.Nodes[:i], node) {
			return fmt.Errorf("%s is named twice", node)
		}
	}
	if len(cut.Nodes) == 0 || len(cut.Nodes) == len(l.Nodes) {
		return fmt.Errorf("a cut has two sides: name some of %s, not all", strings.Join(l.Nodes, ", "))
	}
	return l.recut(ctx, func(cuts []Cut) []Cut { return append(cuts, cut) })
}

// Heal removes every cut.
func (l *Lab) Heal(ctx context.Context) error {
	return l.recut(ctx, func([]Cut) []Cut { return nil })
}

// recut changes the lab's cuts and makes them so. What was decided is written down after
// it is so; both can be done again.
func (l *Lab) recut(ctx context.Context, change func([]Cut) []Cut) error {
	release, err := lock(l.Name)
	if err != nil {
		return err
	}
	defer release()
	now, err := Open(l.Name) // another command may have cut meanwhile
	if err != nil {
		return err
	}
	l.Cuts = change(now.Cuts)
	for i, node := range l.Nodes {
		cmd := exec.CommandContext(ctx, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(l.cutRules(i))
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		err := netns.Do(l.namespace(node), cmd.Start)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			return fmt.Errorf("cut the underlay at %s: %w: %s", node, err, strings.TrimSpace(said.String()))
		}
	}
	if err := l.save(); err != nil {
		return fmt.Errorf("write down the cuts: %w", err)
	}
	return nil
}

// cutRules is the nftables script that makes one node deaf to the other side of every
// cut. Each side drops what arrives: a sender whose own packets were dropped would be
// told, and one behind a broken cable is not.
func (l *Lab) cutRules(index int) string {
	table := "table inet palisade_" + l.Name
	// The first line makes sure that there is something to delete.
	script := fmt.Sprintf("%s {}\ndelete %s\n", table, table)
	var rules strings.Builder
	for _, cut := range l.Cuts {
		var others []string
		for i, node := range l.Nodes {
			if slices.Contains(cut.Nodes, node) != slices.Contains(cut.Nodes, l.Nodes[index]) {
				others = append(others, underlayAddress(i))
			}
		}
		what := ""
		if cut.Gossip {
			what = fmt.Sprintf(" meta l4proto { tcp, udp } th dport %d", gossipPort)
		}
		fmt.Fprintf(&rules, "ip saddr { %s }%s drop\n", strings.Join(others, ", "), what)
	}
	if rules.Len() > 0 {
		script += fmt.Sprintf("%s {\nchain arrives {\ntype filter hook input priority raw\n%s}\n}\n", table, rules.String())
	}
	return script
}

// cutOff says what a node is cut off from: "underlay", "gossip", or "" for nothing.
func (l *Lab) cutOff(node string) string {
	from := ""
	for _, cut := range l.Cuts {
		switch {
		case !slices.Contains(cut.Nodes, node):
		case cut.Gossip && from == "":
			from = "gossip"
		case !cut.Gossip:
			from = "underlay"
		}
	}
	return from
}
