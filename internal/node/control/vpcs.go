package control

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/state"
)

// ClassicName names the EC2-Classic network of a region where a VPC can be named.
const ClassicName = "classic"

// VPCStatus is one network in GET /v1/vpcs: a VPC, or the EC2-Classic network of a region.
type VPCStatus struct {
	VPC        string        `json:"vpc"` // the id, or "classic"
	Region     ec2.Region    `json:"region"`
	Account    ec2.AccountID `json:"account"`      // "": EC2-Classic is shared
	Name       string        `json:"account_name"` // of the account
	CIDR       string        `json:"cidr"`
	Tracking   string        `json:"tracking"`   // aws or strict
	Interfaces int           `json:"interfaces"` // with a lease
}

// vpcs lists the networks of the newest state that this node has, EC2-Classic first.
func (s *Server) vpcs() []VPCStatus {
	all := []VPCStatus{}
	view := s.Cluster.View() // the Plane's may lack a change that the caller has just made
	count := map[ec2.VNI]int{}
	for eni := range view.Interfaces() {
		if eni.State != ec2.Idle {
			count[eni.VNI]++
		}
	}
	for n := range view.Networks() {
		status := VPCStatus{VPC: ClassicName, Region: n.Region, CIDR: blocksOf(n), Tracking: n.Mode.String(), Interfaces: count[n.VNI]}
		if vpc, ok := view.VPC(n.VPC); ok {
			status.VPC, status.Account = string(vpc.ID), vpc.Account
			if a, ok := view.Account(vpc.Account); ok {
				status.Name = a.Name
			}
		}
		all = append(all, status)
	}
	return all
}

// blocksOf returns the ranges of a network, separated by commas.
func blocksOf(n *ec2.Network) string {
	text := n.Prefix.String()
	for _, b := range n.Blocks {
		text += "," + b.String()
	}
	return text
}

// TrackingRequest is the body of POST /v1/vpcs/tracking.
type TrackingRequest struct {
	VPC      string     `json:"vpc"`              // the id, or "classic"
	Tracking string     `json:"tracking"`         // aws or strict
	Region   ec2.Region `json:"region,omitempty"` // of "classic"; "": the region of the node
}

// TrackingChange is the answer to a TrackingRequest.
type TrackingChange struct {
	VPC      string `json:"vpc"`
	Tracking string `json:"tracking"`
	Index    uint64 `json:"index"` // of the change, in the log
	// Unreached are the nodes that did not confirm that they enforce the change. Each enforces it
	// when it reaches the others.
	Unreached []cluster.Pending `json:"unreached"`
}

func (s *Server) setTracking(ctx context.Context, r TrackingRequest) (any, error) {
	mode, err := ec2.ParseTrackingMode(r.Tracking)
	if err != nil {
		return nil, err
	}
	request := &state.SetTracking{VPC: ec2.VPCID(r.VPC), Mode: mode}
	switch {
	case r.VPC == ClassicName:
		request.VPC, request.Region = "", cmp.Or(r.Region, s.Region)
	case !strings.HasPrefix(r.VPC, "vpc-"):
		return nil, fmt.Errorf("%q is not a VPC: it must be the id of a VPC, or %s for EC2-Classic; palisade vpc list shows all", ec2.Clip(r.VPC), ClassicName)
	}
	parameters := map[string]string{"VPC": r.VPC, "Tracking": r.Tracking}
	if r.Region != "" {
		parameters["Region"] = string(r.Region)
	}
	by := s.byOperator("SetTracking", parameters)
	_, index, err := s.Cluster.Apply(ctx, state.Command{Request: request, Audit: by})
	if err != nil {
		return nil, err
	}
	unreached, err := s.unreached(ctx, index)
	return TrackingChange{r.VPC, r.Tracking, index, unreached}, err
}

// enforcedWithin is how long an operator's command waits for all nodes to enforce it.
const enforcedWithin = 5 * time.Second

// unreached waits until every node enforces an index, and returns the nodes that do not in time.
func (s *Server) unreached(ctx context.Context, index uint64) ([]cluster.Pending, error) {
	ctx, cancel := context.WithTimeout(ctx, enforcedWithin)
	defer cancel()
	e, err := s.Cluster.Enforcement(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("it is decided at index %d, but it is not known which nodes enforce it: %w", index, err)
	}
	return append([]cluster.Pending{}, e.Pending...), nil
}
