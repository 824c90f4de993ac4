package lab

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"palisade/internal/netns"
)

// A Cut separates some nodes from all others on the underlay. Nodes on the same side still reach each
// other, and both sides reach the internet.
type Cut struct {
	Nodes  []string `json:"nodes"`
	Gossip bool     `json:"gossip,omitempty"` // only gossip is cut
}

// Partition adds a cut, which stays until Heal.
func (l *Lab) Partition(ctx context.Context, cut Cut) error {
	for i, node := range cut.Nodes {
		if err := l.hasNode(node); err != nil {
			return err
		}
		if slices.Contains(cut.Nodes[:i], node) {
			return fmt.Errorf("%s is listed twice", node)
		}
	}
	if len(cut.Nodes) == 0 || len(cut.Nodes) == len(l.Nodes) {
		return fmt.Errorf("a cut has two sides: name some of the nodes %s, not all", strings.Join(l.Nodes, ", "))
	}
	return l.recut(ctx, func(cuts []Cut) []Cut { return append(cuts, cut) })
}

// Heal removes every cut.
func (l *Lab) Heal(ctx context.Context) error {
	return l.recut(ctx, func([]Cut) []Cut { return nil })
}

// recut changes the list of cuts, applies the new list on all nodes and then stores it. If it fails at one
// node, the command can be repeated.
func (l *Lab) recut(ctx context.Context, change func([]Cut) []Cut) error {
	release, err := lock(l.Name)
	if err != nil {
		return err
	}
	defer release()
	now, err := Open(l.Name) // another command may have changed the cuts
	if err != nil {
		return err
	}
	l.Cuts = change(now.Cuts)
	for i, node := range l.Nodes {
		cmd := exec.CommandContext(ctx, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(l.cutRules(i))
		var output strings.Builder
		cmd.Stdout, cmd.Stderr = &output, &output
		err := netns.Do(l.namespace(node), cmd.Start)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			return fmt.Errorf("cut the underlay at %s: %w: %s", node, err, strings.TrimSpace(output.String()))
		}
	}
	if err := l.save(); err != nil {
		return fmt.Errorf("store the cuts: %w", err)
	}
	return nil
}

// cutRules returns the nftables script with which a node drops packets that arrive from the other side of
// each cut. The receiver drops them, because a sender would get an error if its own node dropped its
// packets, but gets none from a broken cable.
func (l *Lab) cutRules(index int) string {
	table := "table inet palisade_" + l.Name
	// The first line makes sure that the table exists, so that delete succeeds.
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

// cutOff returns what a node is cut off from: "underlay", "gossip", or "" if it is not cut off.
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
