package query

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

// gatewayActions manage internet gateways.
var gatewayActions = map[string]handler{
	"CreateInternetGateway":    action(createInternetGateway),
	"DeleteInternetGateway":    action(deleteInternetGateway),
	"AttachInternetGateway":    action(attachInternetGateway),
	"DetachInternetGateway":    action(detachInternetGateway),
	"DescribeInternetGateways": action(describeInternetGateways),
}

type createInternetGatewayRequest struct {
	Tags []tagSpecification `wire:"TagSpecification"`
}

type createInternetGatewayAnswer struct {
	Gateway gatewayItem `wire:"internetGateway"`
}

type gatewayItem struct {
	ID          ec2.GatewayID       `wire:"internetGatewayId"`
	Owner       ec2.AccountID       `wire:"ownerId"`
	Attachments []gatewayAttachment `wire:"attachmentSet"`
	Tags        []tag               `wire:"tagSet"`
}

type gatewayAttachment struct {
	VPC   ec2.VPCID `wire:"vpcId"`
	State string    `wire:"state"`
}

// newGatewayItem shows an attached gateway as "available". EC2 does so, although its API
// Reference lists no such state.
func (c *call) newGatewayItem(g *ec2.InternetGateway) gatewayItem {
	item := gatewayItem{ID: g.ID, Owner: g.Account, Tags: c.tags(string(g.ID))}
	if g.VPC != "" {
		item.Attachments = []gatewayAttachment{{g.VPC, "available"}}
	}
	return item
}

func createInternetGateway(c *call, r *createInternetGatewayRequest) (*createInternetGatewayAnswer, error) {
	tags, err := tagsFor(r.Tags, "internet-gateway")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateInternetGateway{Account: c.account, Region: c.region, Tags: tags})
	if err != nil {
		return nil, err
	}
	return &createInternetGatewayAnswer{c.newGatewayItem(result.Gateway)}, nil
}

type internetGatewayRequest struct {
	Gateway ec2.GatewayID `wire:"InternetGatewayId"`
}

func deleteInternetGateway(c *call, r *internetGatewayRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteInternetGateway{Account: c.account, Region: c.region, Gateway: r.Gateway}); err != nil {
		return nil, err
	}
	return &done, nil
}

type gatewayAttachmentRequest struct {
	Gateway ec2.GatewayID `wire:"InternetGatewayId"`
	VPC     ec2.VPCID     `wire:"VpcId"`
}

func attachInternetGateway(c *call, r *gatewayAttachmentRequest) (*returned, error) {
	if _, err := c.apply(&state.AttachInternetGateway{Account: c.account, Region: c.region, Gateway: r.Gateway, VPC: r.VPC}); err != nil {
		return nil, err
	}
	return &done, nil
}

func detachInternetGateway(c *call, r *gatewayAttachmentRequest) (*returned, error) {
	if _, err := c.apply(&state.DetachInternetGateway{Account: c.account, Region: c.region, Gateway: r.Gateway, VPC: r.VPC}); err != nil {
		return nil, err
	}
	return &done, nil
}

type describeInternetGatewaysRequest struct {
	IDs []string `wire:"InternetGatewayId"`
	listed
}

type describeInternetGatewaysAnswer struct {
	Gateways  []gatewayItem `wire:"internetGatewaySet"`
	NextToken string        `wire:"nextToken"`
}

var gatewayListing = listing[gatewayItem]{
	kind: "igw",
	id:   func(g gatewayItem) string { return string(g.ID) },
	filters: filterable[gatewayItem]{
		"attachment.state": func(g gatewayItem) []string {
			return valuesOf(g.Attachments, func(a gatewayAttachment) string { return a.State })
		},
		"attachment.vpc-id": func(g gatewayItem) []string {
			return valuesOf(g.Attachments, func(a gatewayAttachment) string { return string(a.VPC) })
		},
		"internet-gateway-id": func(g gatewayItem) []string { return nonEmpty(g.ID) },
		"owner-id":            func(g gatewayItem) []string { return nonEmpty(g.Owner) },
	},
}

func describeInternetGateways(c *call, r *describeInternetGatewaysRequest) (*describeInternetGatewaysAnswer, error) {
	items, next, err := describe(c, gatewayListing, c.view.InternetGatewaysOf(c.account, c.region), c.newGatewayItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeInternetGatewaysAnswer{items, next}, nil
}
