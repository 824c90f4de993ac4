package cluster

import (
	"crypto/rand"

	"palisade/ec2"
	"palisade/ec2/state"
)

// handedIn returns the command that the leader proposes for a command that another node handed in, or
// an *ec2.Error if the node may not ask for it. What is said about the caller is what the leader knows:
// the certificate of the node, and its role.
//
//   - A report is about what is at the node, and has no audit record.
//   - A request of an operator comes from a voter. Its audit record names no account, but the voter.
//   - A node that is no voter may detach what is attached at it. The leader writes the audit record.
//   - A request of a user does not come this way: it needs the user's signature (see AtLeader).
func (c *Cluster) handedIn(from ec2.NodeID, cmd state.Command) (state.Command, error) {
	view := c.View()
	if err := view.MayPropose(from, cmd.Request); err != nil {
		return cmd, err
	}
	node, _ := view.Node(from)
	switch {
	case cmd.Signature != nil:
		return cmd, ec2.Errorf("UnauthorizedOperation", "%s cannot vouch for a user's signature", from)
	case cmd.Audit == nil && (node.Votes() || state.FromOwner(cmd.Request)):
	case state.FromOwner(cmd.Request):
		return cmd, ec2.Errorf("UnauthorizedOperation", "a report of a node has no audit record")
	case !node.Votes():
		cmd.Audit = detachedBy(from, cmd.Request)
	case cmd.Audit.Account != "" || cmd.Audit.AccessKey != "":
		return cmd, ec2.Errorf("UnauthorizedOperation", "%s cannot write an audit record of account %s", from, ec2.Clip(string(cmd.Audit.Account)))
	default:
		audit := *cmd.Audit
		audit.Via = from
		cmd.Audit = &audit
	}
	cmd.From = from
	return cmd, nil
}

// detachedBy returns the audit record of a request of an operator at a node that is no voter.
func detachedBy(from ec2.NodeID, r state.Request) *ec2.Audit {
	a := &ec2.Audit{Source: "control socket of " + string(from), Via: from, RequestID: rand.Text(), Action: "UnregisterInterface"}
	if r, ok := r.(*state.UnregisterInterface); ok {
		a.Parameters = map[string]string{"NetworkInterfaceId": ec2.Clip(string(r.Interface))}
	}
	return a
}
