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

// This file answers POST /v1/attach and /v1/detach: interfaces in front of what is on this
// node already.

// AttachRequest puts an interface in front of a network namespace, or of a device of the
// host that a machine holds. The interface is made, in a subnet and groups, or it is one
// that there is.
type AttachRequest struct {
	Namespace string          `json:"namespace,omitempty"` // below /run/netns, or
	Device    string          `json:"device"`              // its name in the namespace, "" the next free; without one, the device
	Subnet    ec2.SubnetID    `json:"subnet,omitempty"`
	Groups    []string        `json:"groups,omitempty"` // ids, or names in the subnet's VPC
	Address   netip.Addr      `json:"address,omitzero"` // private; zero: any
	Public    *bool           `json:"public,omitempty"` // nil: as the subnet has it
	Interface ec2.InterfaceID `json:"interface,omitempty"`
	Label     string          `json:"label,omitempty"` // its tag Name
}

// OutsideStatus is an interface in front of something.
type OutsideStatus struct {
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
}

// DetachRequest undoes an AttachRequest, named by its interface, or by what that is in
// front of.
type DetachRequest struct {
	Interface ec2.InterfaceID `json:"interface,omitempty"`
	Namespace string          `json:"namespace,omitempty"`
	Device    string          `json:"device,omitempty"`
	Force     bool            `json:"force,omitempty"` // its node does not report
}

func (s *Server) handleOutside(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/outside", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.outside()) })
	mux.HandleFunc("POST /v1/attach", posted(s.attachOutside))
	mux.HandleFunc("POST /v1/detach", posted(s.detachOutside))
}

// outside lists the interfaces in front of something, at whatever node.
func (s *Server) outside() []OutsideStatus {
	all := []OutsideStatus{}
	view := s.Plane.View()
	if view == nil {
		return all
	}
	for eni := range view.Interfaces() {
		if eni.External != nil {
			all = append(all, s.outsideStatus(view, eni))
		}
	}
	return all
}

func (s *Server) outsideStatus(view *state.View, eni *ec2.Interface) OutsideStatus {
	status := OutsideStatus{
		Interface: eni.ID, Node: eni.Node, Namespace: eni.External.Namespace, Device: eni.External.Device, MAC: eni.MAC,
		MTU: s.MTU, State: "active",
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

func (s *Server) attachOutside(ctx context.Context, r AttachRequest) (any, error) {
	if !s.Ready() {
		return nil, errors.New("this node is not ready")
	}
	view, err := s.Cluster.ReadView(ctx)
	if err != nil {
		return nil, err
	}
	register, err := s.registration(view, r)
	if err != nil {
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
	if !s.Plane.Wait(ctx, index) {
		return nil, fmt.Errorf("%s is registered, but the switch does not go by it yet", id)
	}
	if err := s.Fleet.Settle(ctx, id); err != nil {
		_, undo := s.detachOutside(ctx, DetachRequest{Interface: id})
		return nil, errors.Join(err, undo)
	}
	view = s.Plane.View()
	eni, ok := view.Interface(id)
	if !ok || eni.External == nil {
		return nil, fmt.Errorf("%s was taken away again", id)
	}
	return s.outsideStatus(view, eni), nil
}

// registration checks what this node alone can, and puts names into ids.
func (s *Server) registration(view *state.View, r AttachRequest) (*state.RegisterInterface, error) {
	q := &state.RegisterInterface{Node: s.Node, External: ec2.ExternalDevice{Namespace: r.Namespace, Device: r.Device}, Interface: r.Interface, Public: r.Public}
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
			return nil, fmt.Errorf("%s has its subnet, groups and addresses already", r.Interface)
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
	if err := s.checkZone(view, cmp.Or(r.Subnet, subnetOf(view, r.Interface))); err != nil {
		return nil, err
	}
	return q, s.Fleet.CheckHostAttachment(&q.External)
}

func subnetOf(view *state.View, id ec2.InterfaceID) ec2.SubnetID {
	if eni, ok := view.Interface(id); ok {
		return eni.Subnet
	}
	return ""
}

// checkZone says which nodes a subnet's interfaces can be at, if this one is none.
func (s *Server) checkZone(view *state.View, id ec2.SubnetID) error {
	subnet, ok := view.Subnet(id)
	if !ok {
		return fmt.Errorf("there is no subnet %q", id)
	}
	var there []string
	for row := range view.Nodes() {
		switch {
		case row.Zone != subnet.Zone || !row.Member():
		case row.ID == s.Node:
			return nil
		default:
			there = append(there, string(row.ID))
		}
	}
	return fmt.Errorf("%s is in availability zone %s, and this node is not: ask --node %s", id, subnet.Zone, strings.Join(there, " or --node "))
}

func (s *Server) detachOutside(ctx context.Context, r DetachRequest) (any, error) {
	view, err := s.Cluster.ReadView(ctx)
	if err != nil {
		return nil, err
	}
	eni, err := s.outsideOf(view, r)
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
	if s.undone(ctx, eni.ID) {
		return s.outsideStatus(view, eni), nil
	}
	if !r.Force {
		return nil, fmt.Errorf("%s is cut off, but node %s has not said that its port is down; --force does not wait for that", eni.ID, eni.Node)
	}
	if _, _, err := s.Cluster.Apply(ctx, unregister); err != nil { // asked already: now it is done
		return nil, err
	}
	return s.outsideStatus(view, eni), nil
}

// detachWait is how long a node is given to take a port down.
const detachWait = 5 * time.Second

// undone reports whether an interface is in front of nothing any more before detachWait is
// over.
func (s *Server) undone(ctx context.Context, id ec2.InterfaceID) bool {
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

// outsideOf finds the interface that a request names. One by what it is in front of is of
// this node, or of the only one that has such.
func (s *Server) outsideOf(view *state.View, r DetachRequest) (*ec2.Interface, error) {
	if r.Interface != "" {
		eni, ok := view.Interface(r.Interface)
		if !ok || eni.External == nil {
			return nil, fmt.Errorf("%s is in front of no namespace or device", r.Interface)
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
	if here := slices.DeleteFunc(slices.Clone(found), func(eni *ec2.Interface) bool { return eni.Node != s.Node }); len(here) > 0 {
		found = here
	}
	what := (&ec2.ExternalDevice{Namespace: r.Namespace, Device: cmp.Or(r.Device, "any")}).String()
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no interface is in front of %s", what)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d interfaces are in front of %s; name one, as %s", len(found), what, found[0].ID)
}
