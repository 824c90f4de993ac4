package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// AttachRequest is the body of POST /v1/attach. It attaches an interface to a network namespace, or
// to a TAP or veth of the host. The interface exists already, or is created in Subnet and Groups.
type AttachRequest struct {
	Node      ec2.NodeID      `json:"node,omitempty"`      // where; "": the node that is asked
	Namespace string          `json:"namespace,omitempty"` // below /run/netns; "": a device of the host
	Device    string          `json:"device"`              // of the host; or its new name in the namespace, where "" is the next unused
	Subnet    ec2.SubnetID    `json:"subnet,omitempty"`
	Groups    []string        `json:"groups,omitempty"`    // ids, or names in the subnet's VPC
	Address   netip.Addr      `json:"address,omitzero"`    // private; zero: one is chosen
	Public    *bool           `json:"public,omitempty"`    // nil: as the subnet says
	Interface ec2.InterfaceID `json:"interface,omitempty"` // "": it is created
	Label     string          `json:"label,omitempty"`     // value of the tag Name
}

// AttachmentStatus is an interface that is attached to a namespace or device.
type AttachmentStatus struct {
	Interface ec2.InterfaceID `json:"interface"`
	Node      ec2.NodeID      `json:"node"`
	Namespace string          `json:"namespace"` // "" is the host's own
	Device    string          `json:"device"`
	MAC       ec2.MAC         `json:"mac"`
	Addresses []netip.Prefix  `json:"addresses"` // private, the first one first
	Gateway   netip.Addr      `json:"gateway"`
	Public    string          `json:"public_address"`
	MTU       int             `json:"mtu"`
	State     string          `json:"state"` // active or draining

	// HeldIn is the namespace in which the node that answers keeps a device that was taken from its
	// host. Empty for other attachments, and while a TAP waits on the host for a machine to open it.
	HeldIn string `json:"held_in,omitempty"`
	// Conflicts says what a namespace does not reach by the interface, because it has other routes there. Only in
	// the answer to an attach.
	Conflicts []string `json:"conflicts,omitempty"`
}

// DetachRequest is the body of POST /v1/detach. It names the interface, or the namespace or device to
// which the interface is attached.
type DetachRequest struct {
	Interface ec2.InterfaceID `json:"interface,omitempty"`
	Namespace string          `json:"namespace,omitempty"`
	Device    string          `json:"device,omitempty"`
	Force     bool            `json:"force,omitempty"` // do not wait for its node
}

func (s *Server) handleAttachments(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/outside", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.attachments()) })
	mux.HandleFunc("POST /v1/attach", post(decision(s, s.attach)))
	mux.HandleFunc("POST /v1/detach", post(s.detach))
}

// attachments lists the interfaces that are attached to namespaces and devices, on all nodes.
func (s *Server) attachments() []AttachmentStatus {
	all := []AttachmentStatus{}
	view := s.Cluster.View() // the Plane's may lack an attachment that another node has just confirmed
	for eni := range view.Interfaces() {
		if eni.External != nil {
			all = append(all, s.attachmentStatus(view, eni))
		}
	}
	return all
}

func (s *Server) attachmentStatus(view *state.View, eni *ec2.Interface) AttachmentStatus {
	status := AttachmentStatus{
		Interface: eni.ID, Node: eni.Node, Namespace: eni.External.Namespace, Device: eni.External.Device, MAC: eni.MAC,
		MTU: s.MTU, State: "active", HeldIn: s.Fleet.HeldIn(eni),
	}
	status.Addresses, status.Gateway = s.Fleet.Link(view, eni)
	if eni.Public.IsValid() {
		status.Public = eni.Public.String()
	}
	if eni.State != ec2.Active {
		status.State = "draining"
	}
	return status
}

func (s *Server) attach(ctx context.Context, r AttachRequest) (any, error) {
	if !s.Ready() {
		return nil, errors.New("this node is not ready")
	}
	r.Node = cmp.Or(r.Node, s.Node)
	view, err := s.Cluster.ReadView(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkFirst(view, r); err != nil {
		return nil, err
	}
	register, err := s.registration(view, r)
	if err != nil {
		return nil, err
	}
	if register.External, err = s.attachableAt(ctx, r.Node, register.External); err != nil {
		return nil, err
	}
	result, index, err := s.Cluster.Apply(ctx, state.Command{Request: register, Audit: s.byOperator("RegisterInterface", map[string]string{
		"Node": string(register.Node), "Outside": register.External.String(), "SubnetId": string(r.Subnet),
		"SecurityGroups": strings.Join(r.Groups, ","), "NetworkInterfaceId": string(r.Interface),
	})})
	if err != nil {
		return nil, err
	}
	id := result.Interface.ID
	status, err := s.attachedAt(ctx, r.Node, attachedQuestion{id, index})
	if err != nil {
		_, undo := s.detach(ctx, DetachRequest{Interface: id})
		return nil, errors.Join(err, undo)
	}
	return status, nil
}

// checkFirst returns an error if an interface is attached to the request's namespace already, unless the request
// names the device: a second one is rarely meant.
func checkFirst(view *state.View, r AttachRequest) error {
	if r.Namespace == "" || r.Device != "" {
		return nil
	}
	for eni := range view.Interfaces() {
		if at := eni.External; at != nil && eni.Node == r.Node && at.Namespace == r.Namespace && eni.State == ec2.Active {
			return fmt.Errorf("%s is attached to namespace %s already, as %s; to attach another interface, name its device with --device", eni.ID, r.Namespace, at.Device)
		}
	}
	return nil
}

// registration returns the command for a request, with names of groups replaced by ids. It returns an
// error if the interface cannot be attached at the request's node.
func (s *Server) registration(view *state.View, r AttachRequest) (*state.RegisterInterface, error) {
	q := &state.RegisterInterface{Node: r.Node, External: ec2.ExternalDevice{Namespace: r.Namespace, Device: r.Device}, Interface: r.Interface, Public: r.Public}
	if r.Label != "" {
		q.Tags = map[string]string{"Name": r.Label}
	}
	if r.Interface != "" {
		eni, ok := view.Interface(r.Interface)
		if !ok {
			return nil, fmt.Errorf("there is no interface %s", r.Interface)
		}
		q.Account, q.Region = eni.Account, eni.Region
		if r.Subnet != "" || len(r.Groups) > 0 || r.Address.IsValid() {
			return nil, fmt.Errorf("%s exists, so its subnet, groups and address cannot be given", r.Interface)
		}
	} else {
		subnet, ok := view.Subnet(r.Subnet)
		if !ok {
			return nil, fmt.Errorf("there is no subnet %q", r.Subnet)
		}
		q.Account, q.Region = subnet.Account, subnet.Region
		q.Spec = state.InterfaceSpec{Subnet: subnet.ID, Private: r.Address}
		for _, name := range r.Groups {
			g, ok := view.Group(ec2.GroupID(name))
			if !ok {
				g, ok = view.GroupNamed(subnet.Account, subnet.Region, subnet.VPC, name)
			}
			if !ok || g.VPC != subnet.VPC {
				return nil, fmt.Errorf("there is no group %q in %s, the VPC of %s", name, subnet.VPC, subnet.ID)
			}
			q.Spec.Groups = append(q.Spec.Groups, g.ID)
		}
	}
	return q, checkZone(view, r.Node, cmp.Or(r.Subnet, subnetOf(view, r.Interface)))
}

func subnetOf(view *state.View, id ec2.InterfaceID) ec2.SubnetID {
	if eni, ok := view.Interface(id); ok {
		return eni.Subnet
	}
	return ""
}

// checkZone returns an error if a node does not carry the zone of a subnet. The error names the nodes
// that do.
func checkZone(view *state.View, node ec2.NodeID, id ec2.SubnetID) error {
	subnet, ok := view.Subnet(id)
	if !ok {
		return fmt.Errorf("there is no subnet %q", id)
	}
	var others []string
	for _, id := range view.ZoneNodes(subnet.Region, subnet.Zone) {
		if id == node {
			return nil
		}
		others = append(others, string(id))
	}
	return fmt.Errorf("%s is in availability zone %s, and %s is not: use --node %s", id, subnet.Zone, node, strings.Join(others, " or --node "))
}

func (s *Server) detach(ctx context.Context, r DetachRequest) (any, error) {
	view, err := s.Cluster.ReadView(ctx)
	if err != nil {
		return nil, err
	}
	eni, err := s.findAttachment(view, r)
	if err != nil {
		return nil, err
	}
	unregister := state.Command{
		Request: &state.UnregisterInterface{Account: eni.Account, Region: eni.Region, Interface: eni.ID, Force: r.Force},
		Audit:   s.byOperator("UnregisterInterface", map[string]string{"NetworkInterfaceId": string(eni.ID), "Outside": eni.External.String()}),
	}
	if _, _, err := s.Cluster.Apply(ctx, unregister); err != nil {
		return nil, err
	}
	if s.waitDetached(ctx, eni.ID) {
		return s.attachmentStatus(view, eni), nil
	}
	if !r.Force {
		return nil, fmt.Errorf("%s passes no packets any more, but node %s has not reported that its port is removed; --force does not wait for that", eni.ID, eni.Node)
	}
	if _, _, err := s.Cluster.Apply(ctx, unregister); err != nil { // the second, forced request takes effect at once
		return nil, err
	}
	return s.attachmentStatus(view, eni), nil
}

// detachWait is how long a detach waits for the interface's node to remove the port.
const detachWait = 5 * time.Second

// waitDetached waits until an interface is detached. It returns false after detachWait.
func (s *Server) waitDetached(ctx context.Context, id ec2.InterfaceID) bool {
	ctx, cancel := context.WithTimeout(ctx, detachWait)
	defer cancel()
	for ctx.Err() == nil {
		if now, ok := s.Plane.View().Interface(id); !ok || now.External == nil {
			return true
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return false
}

// findAttachment finds the interface that a request names. If it names a namespace or device,
// interfaces of this node are preferred to those of other nodes; if several interfaces remain,
// findAttachment returns an error.
func (s *Server) findAttachment(view *state.View, r DetachRequest) (*ec2.Interface, error) {
	if r.Interface != "" {
		eni, ok := view.Interface(r.Interface)
		if !ok || eni.External == nil {
			return nil, fmt.Errorf("%s is attached to no namespace or device", r.Interface)
		}
		return eni, nil
	}
	var found []*ec2.Interface
	for eni := range view.Interfaces() {
		at := eni.External
		if at == nil || at.Namespace != r.Namespace || at.Device != cmp.Or(r.Device, at.Device) {
			continue
		}
		found = append(found, eni)
	}
	if local := slices.DeleteFunc(slices.Clone(found), func(eni *ec2.Interface) bool { return eni.Node != s.Node }); len(local) > 0 {
		found = local
	}
	what := (&ec2.ExternalDevice{Namespace: r.Namespace, Device: cmp.Or(r.Device, "any")}).String()
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no interface is attached to %s", what)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d interfaces are attached to %s; name one of them, such as %s", len(found), what, found[0].ID)
}
