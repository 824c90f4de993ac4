package query

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

type associateVPCBlockRequest struct {
	VPC  ec2.VPCID `wire:"VpcId"`
	CIDR string    `wire:"CidrBlock"`
}

type vpcBlockAnswer struct {
	VPC   ec2.VPCID `wire:"vpcId"`
	Block vpcBlock  `wire:"cidrBlockAssociation"`
}

// associateVPCBlock answers with the state that EC2's answer has, like disassociateVPCBlock. By then
// the block is associated, or gone.
func associateVPCBlock(c *call, r *associateVPCBlockRequest) (*vpcBlockAnswer, error) {
	if r.VPC == "" {
		return nil, ec2.Missing("vpcId")
	}
	block, err := parseBlock(r.CIDR, "cidrBlock")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.AssociateVPCBlock{Account: c.account, Region: c.region, VPC: r.VPC, CIDR: block})
	if err != nil {
		return nil, err
	}
	return newVPCBlockAnswer(result, "associating"), nil
}

type disassociateVPCBlockRequest struct {
	Association ec2.AssociationID `wire:"AssociationId"`
}

func disassociateVPCBlock(c *call, r *disassociateVPCBlockRequest) (*vpcBlockAnswer, error) {
	result, err := c.apply(&state.DisassociateVPCBlock{Account: c.account, Region: c.region, Association: r.Association})
	if err != nil {
		return nil, err
	}
	return newVPCBlockAnswer(result, "disassociating"), nil
}

func newVPCBlockAnswer(r state.Result, status string) *vpcBlockAnswer {
	return &vpcBlockAnswer{r.VPC.ID, vpcBlock{r.Block.Association, r.Block.CIDR.String(), blockState{status}}}
}
