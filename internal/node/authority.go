package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// lateEvery is how often a node that is not up to date asks whether the authority was replaced while it
// was away.
const lateEvery = 2 * time.Second

// A madeAuthority is one that this node made as the leader, before its certificate is in the state.
type madeAuthority struct {
	rotation uint64 // index of the rotation
	root     string // PEM
	key      []byte // PEM
}

// A certificateRequest asks a voter for a certificate of the caller's key, which the node table has.
type certificateRequest struct {
	Root string   `json:"root,omitempty"` // of the authority that shall sign it (PEM); "": the newest
	Have []string `json:"have,omitempty"` // with no Root: the authorities of which the caller has certificates
}

type certificateAnswer struct {
	Root        string `json:"root"`
	Certificate []byte `json:"certificate,omitempty"` // PEM; none if the caller has one of this authority
}

func (n *Node) handleRenew() {
	n.peer.HandleRenew(func(_ context.Context, from string, body []byte) ([]byte, error) {
		member, err := n.callingMember(from)
		if err != nil {
			return nil, err
		}
		var q certificateRequest
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, err
		}
		a := certificateAnswer{Root: cmp.Or(q.Root, n.id.Signers()[0])}
		if q.Root == "" && slices.Contains(q.Have, a.Root) {
			return json.Marshal(a)
		}
		if a.Certificate, err = n.certify(a.Root, member); err != nil {
			return nil, err
		}
		n.log.Info("certificate signed", "node", from, "authority", ec2.AuthorityID(a.Root))
		return json.Marshal(a)
	})
}

// certify signs a certificate for the name, address and key of a node in the node table.
func (n *Node) certify(root string, node *ec2.Node) ([]byte, error) {
	address, err := netip.ParseAddrPort(node.Address)
	if err != nil {
		return nil, err
	}
	return n.id.Certify(root, string(node.ID), address, node.PublicKey)
}

// followAuthority does this node's part of the replacement of the authority. The order of the steps of
// useAuthority lets a node that was away do them all at once, after the end too.
func (n *Node) followAuthority(ctx context.Context) error {
	if n.id == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	view := n.cluster.View()
	return errors.Join(n.useAuthority(ctx, view), n.dropAuthorityKeys(ctx, view))
}

func (n *Node) useAuthority(ctx context.Context, view *state.View) error {
	r, rotating := view.Rotation(ec2.Authority)
	root := r.Certificate
	if !rotating {
		root = view.Authority()
	}
	if root == "" { // the authority was never replaced, or the leader has not made the new one yet
		return nil
	}
	if !slices.Contains(n.id.Trusted(), root) {
		if err := n.id.Trust(root); err != nil {
			return err
		}
	}
	if (!rotating || r.Step != ec2.RotationSpread) && n.id.Signers()[0] != root {
		if err := n.renew(ctx, view, root); err != nil {
			return err
		}
	}
	if n.keepsClusterKey(view) && n.id.AuthorityKey(root) == nil {
		if err := n.getAuthorityKey(ctx, view, root); err != nil {
			return err
		}
	}
	if rotating && r.Step == ec2.RotationDrop && len(n.id.Signers()) > 1 {
		return n.id.ShowOnly(root)
	}
	if !rotating && (len(n.id.Trusted()) > 1 || len(n.id.Signers()) > 1) {
		n.log.Info("only the new authority is trusted", "authority", ec2.AuthorityID(root))
		return n.id.TrustOnly(root)
	}
	return nil
}

// renew gets a certificate of an authority that the state names: it signs it itself, or asks the voters.
func (n *Node) renew(ctx context.Context, view *state.View, root string) error {
	if self, ok := view.Node(n.config.Name); ok && n.id.AuthorityKey(root) != nil {
		certificate, err := n.certify(root, self)
		if err != nil {
			return err
		}
		return n.id.Renew(root, certificate, true)
	}
	var failures []error
	for m := range view.Nodes() {
		if !hasClusterKey(m) || m.ID == n.config.Name {
			continue
		}
		a, err := n.askCertificate(ctx, string(m.ID), certificateRequest{Root: root})
		if err == nil {
			err = n.id.Renew(root, a.Certificate, true)
		}
		if err == nil {
			n.log.Info("certificate renewed", "by", m.ID, "authority", ec2.AuthorityID(root))
			return nil
		}
		failures = append(failures, err)
	}
	return errors.Join(append(failures, errors.New("no voter signs a new certificate of this node"))...)
}

func (n *Node) askCertificate(ctx context.Context, node string, q certificateRequest) (a certificateAnswer, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	data, err := n.peer.AskRenewal(ctx, node, body)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(data, &a)
}

// renewLate is for a node that is not up to date. If the authority was replaced while it was away, it can
// connect to no node. It asks the voters that it knows for a certificate, and uses that, unsaved, until it
// has the state, which names the authority.
func (n *Node) renewLate(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, voter := range n.knownVoters() {
		a, err := n.askCertificate(ctx, voter, certificateRequest{Have: n.id.Signers()})
		if err != nil || len(a.Certificate) == 0 {
			continue
		}
		if err := n.id.Renew(a.Root, a.Certificate, false); err != nil {
			n.log.Warn("new certificate not usable", "from", voter, "err", err)
			continue
		}
		n.log.Info("the authority was replaced while this node was away", "authority", ec2.AuthorityID(a.Root), "from", voter)
		return
	}
}

// knownVoters returns the other voters in this node's state or, if it has none yet, those that admitted it.
func (n *Node) knownVoters() (voters []string) {
	for m := range n.cluster.View().Nodes() {
		if m.Votes() && m.ID != n.config.Name {
			voters = append(voters, string(m.ID))
		}
	}
	if n.cluster.View().Index() > 0 {
		return voters
	}
	for _, m := range n.id.Members() {
		if m.Role != string(ec2.NonVoter) && m.Node != string(n.config.Name) {
			voters = append(voters, m.Node)
		}
	}
	return voters
}

// getAuthorityKey gets the key of an authority that the state names: from memory, if this node made it, or
// from another voter.
func (n *Node) getAuthorityKey(ctx context.Context, view *state.View, root string) error {
	if n.made.root == root {
		return n.id.SetAuthorityKey(root, n.made.key)
	}
	body, err := json.Marshal(rotationKeyRequest{ec2.Authority, ec2.AuthorityID(root)})
	if err != nil {
		return err
	}
	var failures []error
	for m := range view.Nodes() {
		if !hasClusterKey(m) || m.ID == n.config.Name {
			continue
		}
		key, err := n.peer.Call(ctx, string(m.ID), methodRotationKey, body)
		if err == nil {
			err = n.id.SetAuthorityKey(root, key)
		}
		if err == nil {
			n.log.Info("key of the authority received", "authority", ec2.AuthorityID(root), "from", m.ID)
			return nil
		}
		failures = append(failures, err)
	}
	return errors.Join(append(failures, errors.New("no voter gives the key of the new authority"))...)
}

// giveAuthorityKey gives another voter the key of the authority with an id.
func (n *Node) giveAuthorityKey(to *ec2.Node, id string) ([]byte, error) {
	if !to.Votes() {
		return nil, fmt.Errorf("%s is no voter: it does not get the authority's key", to.ID)
	}
	for _, root := range n.id.Trusted() {
		if key := n.id.AuthorityKey(root); key != nil && ec2.AuthorityID(root) == id {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%s does not have the key of authority %s", n.config.Name, ec2.Clip(id))
}

// dropAuthorityKeys deletes the authority's key at a node that has lost its vote, once a voter reports that
// it has the key.
func (n *Node) dropAuthorityKeys(ctx context.Context, view *state.View) error {
	self, ok := view.Node(n.config.Name)
	mine := n.authorityKeys()
	if !ok || hasClusterKey(self) || len(mine) == 0 {
		return nil
	}
	for node, report := range n.rotationReports(ctx, view) {
		if m, ok := view.Node(node); ok && m.Votes() && slices.Contains(report.CAKeys, mine[0]) {
			n.log.Info("key of the authority deleted: this node is no voter", "authority", mine[0])
			return n.id.DropAuthorityKeys()
		}
	}
	return fmt.Errorf("this node is no voter, and keeps the authority's key %s until a voter reports that it has it", mine[0])
}

// authorityKeys returns the ids of the authorities whose keys this node has.
func (n *Node) authorityKeys() (ids []string) {
	for _, root := range n.id.Trusted() {
		if n.id.AuthorityKey(root) != nil {
			ids = append(ids, ec2.AuthorityID(root))
		}
	}
	return ids
}

// beginAuthority ends the step in which the leader makes the new authority. It is stored when the state has
// its certificate; if the entry is lost, no other node trusts it.
func (n *Node) beginAuthority(ctx context.Context, r ec2.Rotation) error {
	if n.id == nil {
		return errors.New("this node is a cluster of one, which has no authority")
	}
	if n.made.rotation != r.Index {
		root, key, err := n.id.NewAuthority()
		if err != nil {
			return err
		}
		n.made = madeAuthority{r.Index, root, key}
	}
	return n.applyStep(ctx, state.AdvanceRotation{
		Kind: r.Kind, Index: r.Index, From: r.Step, To: ec2.RotationSpread, Key: ec2.AuthorityID(n.made.root), Certificate: n.made.root,
	})
}

// reportAuthority adds to a report which authorities this node trusts and uses.
func (n *Node) reportAuthority(r *rotationReport) {
	if n.id == nil {
		return
	}
	for _, root := range n.id.Trusted() {
		r.CATrusts = append(r.CATrusts, ec2.AuthorityID(root))
	}
	for _, root := range n.id.Signers() {
		r.CASigners = append(r.CASigners, ec2.AuthorityID(root))
	}
	r.CAKeys = n.authorityKeys()
}

// authorityWaits returns "" if a node is done with the present step of the authority's rotation, else what
// it lacks.
func authorityWaits(node *ec2.Node, r ec2.Rotation, has rotationReport) string {
	switch {
	case !slices.Contains(has.CATrusts, r.Key):
		return "does not trust the new authority yet"
	case hasClusterKey(node) && !slices.Contains(has.CAKeys, r.Key):
		return "does not have the new key"
	case r.Step != ec2.RotationSpread && (len(has.CASigners) == 0 || has.CASigners[0] != r.Key):
		return "does not have a new certificate yet"
	case r.Step == ec2.RotationDrop && len(has.CASigners) > 1:
		return "shows the old certificate to clients"
	}
	return ""
}
