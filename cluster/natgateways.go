package cluster

import (
	"context"
	"errors"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

const (
	// natCheckEvery is how often the leader calls the nodes that have NAT gateways. A gateway whose node has not
	// answered for natLostAfter moves to another node. With less, a daemon that restarts loses its gateways, and so
	// their connections; with more, the instances behind them are cut off for longer.
	natCheckEvery = 500 * time.Millisecond
	natLostAfter  = 2 * time.Second
)

// runNATGateways, on the leader, moves the NAT gateways of lost nodes to other nodes, until ctx ends. A gateway at a
// node that only the leader does not reach moves too: its connections are lost, but no rule depends on where it is.
func (c *Cluster) runNATGateways(ctx context.Context) {
	silent := make(map[ec2.NodeID]time.Time) // since when
	for {
		select {
		case <-ctx.Done():
			return
		case <-onBeat(natCheckEvery):
		}
		if c.leadingTerm() == 0 {
			clear(silent)
			continue
		}
		view := c.View()
		at := make(map[ec2.NodeID]bool)
		for g := range view.NATGateways() {
			if eni, ok := view.Interface(g.Interface); ok {
				at[eni.Node] = true
			}
		}
		if len(at) == 0 {
			continue
		}
		var nodes []ec2.NodeID
		for n := range view.Nodes() {
			if n.Member() {
				nodes = append(nodes, n.ID)
			}
		}
		begin := time.Now()
		for node, err := range c.ping(ctx, nodes) {
			switch _, was := silent[node]; {
			case err == nil:
				delete(silent, node)
			case !was:
				silent[node] = begin
			}
		}
		lost := func(n ec2.NodeID) bool { since, is := silent[n]; return is && time.Since(since) >= natLostAfter }
		for g := range view.NATGateways() {
			c.moveNATGateway(ctx, view, g, lost)
		}
	}
}

// moveNATGateway moves a gateway if its node is lost.
func (c *Cluster) moveNATGateway(ctx context.Context, view *state.View, g *ec2.NATGateway, lost func(ec2.NodeID) bool) {
	eni, ok := view.Interface(g.Interface)
	if !ok || !lost(eni.Node) {
		return
	}
	to := view.NodeForNAT(g, lost)
	if to == "" {
		return
	}
	_, _, err := c.Apply(ctx, state.Command{Request: &state.MoveNATGateway{NAT: g.ID, From: eni.Node, To: to}})
	switch {
	case err == nil:
		c.cfg.Logger.Warn("NAT gateway moved from a lost node; its connections are lost", "gateway", g.ID, "from", eni.Node, "to", to)
	case ctx.Err() == nil && !errors.Is(err, ErrNoLeader):
		c.cfg.Logger.Warn("NAT gateway not moved from a lost node", "gateway", g.ID, "from", eni.Node, "to", to, "err", err)
	}
}
