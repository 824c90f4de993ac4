package query

import (
	"regexp"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// peeringActions manage peerings of VPCs.
var peeringActions = map[string]handler{
	"CreateVpcPeeringConnection":        action(createPeering),
	"AcceptVpcPeeringConnection":        action(acceptPeering),
	"RejectVpcPeeringConnection":        action(rejectPeering),
	"DeleteVpcPeeringConnection":        action(deletePeering),
	"ModifyVpcPeeringConnectionOptions": action(modifyPeeringOptions),
	"DescribeVpcPeeringConnections":     action(describePeerings),

	"AssociateSecurityGroupVpc":    action(associateGroupVPC),
	"DisassociateSecurityGroupVpc": action(disassociateGroupVPC),
}

type createPeeringRequest struct {
	VPC         ec2.VPCID          `wire:"VpcId"`
	PeerVPC     ec2.VPCID          `wire:"PeerVpcId"`
	PeerAccount ec2.AccountID      `wire:"PeerOwnerId"`
	PeerRegion  ec2.Region         `wire:"PeerRegion"`
	Tags        []tagSpecification `wire:"TagSpecification"`
}

type peeringAnswer struct {
	Peering peeringItem `wire:"vpcPeeringConnection"`
}

type peeringItem struct {
	ID        ec2.PeeringID `wire:"vpcPeeringConnectionId"`
	Requester peeringSide   `wire:"requesterVpcInfo"`
	Accepter  peeringSide   `wire:"accepterVpcInfo"`
	Expires   time.Time     `wire:"expirationTime"`
	Status    peeringStatus `wire:"status"`
	Tags      []tag         `wire:"tagSet"`
}

type peeringSide struct {
	CIDR    string          `wire:"cidrBlock"`
	Blocks  []peeringBlock  `wire:"cidrBlockSet"`
	Owner   ec2.AccountID   `wire:"ownerId"`
	Options *peeringOptions `wire:"peeringOptions"`
	VPC     ec2.VPCID       `wire:"vpcId"`
	Region  ec2.Region      `wire:"region"`
}

type peeringBlock struct {
	CIDR string `wire:"cidrBlock"`
}

type peeringOptions struct {
	DNS               bool `wire:"allowDnsResolutionFromRemoteVpc"`
	FromClassicLink   bool `wire:"allowEgressFromLocalClassicLinkToRemoteVpc"`
	ToRemoteClassLink bool `wire:"allowEgressFromLocalVpcToRemoteClassicLink"`
}

type peeringStatus struct {
	Code    ec2.PeeringStatus `wire:"code"`
	Message string            `wire:"message"`
}

// newPeeringItem shows the blocks of the accepter's VPC only once the accepter has agreed.
func (c *call) newPeeringItem(p *ec2.VPCPeering) peeringItem {
	item := peeringItem{
		ID:        p.ID,
		Requester: c.newPeeringSide(&p.Requester, p.Active() || p.Status == ec2.PeeringPending, p.Active()),
		Accepter:  c.newPeeringSide(&p.Accepter, p.Active(), p.Active()),
		Status:    c.peeringStatusOf(p),
		Tags:      c.tags(string(p.ID)),
	}
	if !p.Active() {
		item.Expires = p.Expires
	}
	return item
}

func (c *call) newPeeringSide(s *ec2.PeeringSide, withBlocks, withOptions bool) peeringSide {
	side := peeringSide{Owner: s.Account, VPC: s.VPC, Region: s.Region}
	if v, ok := c.view.VPC(s.VPC); ok && withBlocks {
		side.CIDR = v.CIDR.String()
		for _, b := range v.Blocks() {
			side.Blocks = append(side.Blocks, peeringBlock{b.CIDR.String()})
		}
	}
	if withOptions {
		side.Options = &peeringOptions{DNS: s.DNS}
	}
	return side
}

func (c *call) peeringStatusOf(p *ec2.VPCPeering) peeringStatus {
	status := p.Status
	if status == ec2.PeeringPending && !p.Expires.After(c.view.Time()) {
		status = ec2.PeeringExpired
	}
	return peeringStatus{status, map[ec2.PeeringStatus]string{
		ec2.PeeringPending:  "Pending Acceptance by " + string(p.Accepter.Account),
		ec2.PeeringActive:   "Active",
		ec2.PeeringFailed:   "Failed due to incorrect VPC-ID, Account ID, or overlapping CIDR range",
		ec2.PeeringRejected: "Rejected by " + string(p.Accepter.Account),
		ec2.PeeringExpired:  "Expired",
		ec2.PeeringDeleted:  "Deleted by " + string(p.DeletedBy),
	}[status]}
}

var (
	vpcID      = regexp.MustCompile(`^vpc-[0-9a-f]{1,17}$`)
	accountID  = regexp.MustCompile(`^[0-9]{12}$`)
	regionName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
)

func createPeering(c *call, r *createPeeringRequest) (*peeringAnswer, error) {
	switch {
	case r.VPC == "":
		return nil, ec2.Missing("vpcId")
	case r.PeerVPC == "":
		return nil, ec2.Missing("peerVpcId")
	case !vpcID.MatchString(string(r.PeerVPC)):
		return nil, ec2.Errorf("InvalidVpcID.Malformed", `Invalid id: "%s" (expecting "vpc-...")`, wire.Quote(string(r.PeerVPC)))
	case r.PeerAccount != "" && !accountID.MatchString(string(r.PeerAccount)):
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter peerOwnerId is invalid. An account ID has 12 digits.", wire.Quote(string(r.PeerAccount)))
	case r.PeerRegion != "" && !regionName.MatchString(string(r.PeerRegion)):
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter peerRegion is invalid.", wire.Quote(string(r.PeerRegion)))
	}
	tags, err := tagsFor(r.Tags, "vpc-peering-connection")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateVPCPeering{
		Account: c.account, Region: c.region, VPC: r.VPC, PeerAccount: r.PeerAccount, PeerRegion: r.PeerRegion, PeerVPC: r.PeerVPC, Tags: tags,
	})
	if err != nil {
		return nil, err
	}
	return &peeringAnswer{c.newPeeringItem(result.Peering)}, nil
}

type peeringRequest struct {
	ID ec2.PeeringID `wire:"VpcPeeringConnectionId"`
}

func acceptPeering(c *call, r *peeringRequest) (*peeringAnswer, error) {
	result, err := c.apply(&state.AcceptVPCPeering{Account: c.account, Region: c.region, Peering: r.ID})
	if err != nil {
		return nil, err
	}
	return &peeringAnswer{c.newPeeringItem(result.Peering)}, nil
}

func rejectPeering(c *call, r *peeringRequest) (*returned, error) {
	if _, err := c.apply(&state.RejectVPCPeering{Account: c.account, Region: c.region, Peering: r.ID}); err != nil {
		return nil, err
	}
	return &done, nil
}

func deletePeering(c *call, r *peeringRequest) (*returned, error) {
	if _, err := c.apply(&state.DeleteVPCPeering{Account: c.account, Region: c.region, Peering: r.ID}); err != nil {
		return nil, err
	}
	return &done, nil
}

type modifyPeeringOptionsRequest struct {
	ID        ec2.PeeringID       `wire:"VpcPeeringConnectionId"`
	Requester peeringOptionsParam `wire:"RequesterPeeringConnectionOptions"`
	Accepter  peeringOptionsParam `wire:"AccepterPeeringConnectionOptions"`
}

type peeringOptionsParam struct {
	DNS               *bool `wire:"AllowDnsResolutionFromRemoteVpc"`
	FromClassicLink   *bool `wire:"AllowEgressFromLocalClassicLinkToRemoteVpc"`
	ToRemoteClassLink *bool `wire:"AllowEgressFromLocalVpcToRemoteClassicLink"`
}

type modifyPeeringOptionsAnswer struct {
	Requester *peeringOptions `wire:"requesterPeeringConnectionOptions"`
	Accepter  *peeringOptions `wire:"accepterPeeringConnectionOptions"`
}

// modifyPeeringOptions keeps and shows the option about names. No name is resolved here, so it changes
// no answer. ClassicLink does not exist, so its options can only be false.
func modifyPeeringOptions(c *call, r *modifyPeeringOptionsRequest) (*modifyPeeringOptionsAnswer, error) {
	for _, o := range []*peeringOptionsParam{&r.Requester, &r.Accepter} {
		if deref(o.FromClassicLink) || deref(o.ToRemoteClassLink) {
			return nil, ec2.Errorf("UnsupportedOperation", "ClassicLink is not served, so a peering cannot carry packets of linked instances")
		}
		if o.DNS == nil && (o.FromClassicLink != nil || o.ToRemoteClassLink != nil) {
			o.DNS = c.dnsOption(r.ID, o == &r.Requester)
		}
	}
	result, err := c.apply(&state.ModifyVPCPeering{Account: c.account, Region: c.region, Peering: r.ID, RequesterDNS: r.Requester.DNS, AccepterDNS: r.Accepter.DNS})
	if err != nil {
		return nil, err
	}
	answer := new(modifyPeeringOptionsAnswer)
	if r.Requester.DNS != nil {
		answer.Requester = &peeringOptions{DNS: result.Peering.Requester.DNS}
	}
	if r.Accepter.DNS != nil {
		answer.Accepter = &peeringOptions{DNS: result.Peering.Accepter.DNS}
	}
	return answer, nil
}

// dnsOption returns the option of a side as it is.
func (c *call) dnsOption(id ec2.PeeringID, requester bool) *bool {
	p, ok := c.view.Peering(id)
	if !ok {
		return new(bool)
	}
	if requester {
		return &p.Requester.DNS
	}
	return &p.Accepter.DNS
}

type describePeeringsRequest struct {
	IDs []string `wire:"VpcPeeringConnectionId"`
	listed
}

type describePeeringsAnswer struct {
	Peerings  []peeringItem `wire:"vpcPeeringConnectionSet"`
	NextToken string        `wire:"nextToken"`
}

var peeringListing = listing[peeringItem]{
	kind: "pcx",
	id:   func(p peeringItem) string { return string(p.ID) },
	filters: filterable[peeringItem]{
		"accepter-vpc-info.cidr-block":  func(p peeringItem) []string { return p.Accepter.cidrs() },
		"accepter-vpc-info.owner-id":    func(p peeringItem) []string { return nonEmpty(p.Accepter.Owner) },
		"accepter-vpc-info.vpc-id":      func(p peeringItem) []string { return nonEmpty(p.Accepter.VPC) },
		"expiration-time":               func(p peeringItem) []string { return timeValue(p.Expires) },
		"requester-vpc-info.cidr-block": func(p peeringItem) []string { return p.Requester.cidrs() },
		"requester-vpc-info.owner-id":   func(p peeringItem) []string { return nonEmpty(p.Requester.Owner) },
		"requester-vpc-info.vpc-id":     func(p peeringItem) []string { return nonEmpty(p.Requester.VPC) },
		"status-code":                   func(p peeringItem) []string { return nonEmpty(p.Status.Code) },
		"status-message":                func(p peeringItem) []string { return nonEmpty(p.Status.Message) },
		"vpc-peering-connection-id":     func(p peeringItem) []string { return nonEmpty(p.ID) },
	},
}

func (s peeringSide) cidrs() []string {
	return valuesOf(s.Blocks, func(b peeringBlock) string { return b.CIDR })
}

// timeValue returns a time as a filter's values have it, or none.
func timeValue(t time.Time) []string {
	if t.IsZero() {
		return nil
	}
	return []string{t.UTC().Format("2006-01-02T15:04:05.000Z")}
}

func describePeerings(c *call, r *describePeeringsRequest) (*describePeeringsAnswer, error) {
	for _, id := range r.IDs {
		if err := ec2.CheckPeeringID(ec2.PeeringID(id)); err != nil {
			return nil, err
		}
	}
	items, next, err := describe(c, peeringListing, c.view.PeeringsOf(c.account, c.region), c.newPeeringItem, r.IDs, r.listed)
	if err != nil {
		return nil, err
	}
	return &describePeeringsAnswer{items, next}, nil
}
