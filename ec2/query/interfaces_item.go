package query

import (
	"slices"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/region"
)

// An interfaceItem is an interface in answers about interfaces.
type interfaceItem struct {
	nicItem
	Zone      string `wire:"availabilityZone"`
	ZoneID    string `wire:"availabilityZoneId"`
	Requester string `wire:"requesterId"`
	Managed   bool   `wire:"requesterManaged"`
	Tags      []tag  `wire:"tagSet"`
}

type attachmentItem struct {
	ID                  ec2.AttachmentID `wire:"attachmentId"`
	Instance            ec2.InstanceID   `wire:"instanceId"`
	InstanceOwner       ec2.AccountID    `wire:"instanceOwnerId"`
	DeviceIndex         int              `wire:"deviceIndex"`
	NetworkCard         int              `wire:"networkCardIndex"`
	Status              string           `wire:"status"`
	Time                time.Time        `wire:"attachTime"`
	DeleteOnTermination bool             `wire:"deleteOnTermination"`
}

// A publicItem is a public address. Owner is the account of an elastic address, or amazon.
type publicItem struct {
	Public     string           `wire:"publicIp"`
	PublicDNS  wire.Present     `wire:"publicDnsName"`
	Owner      string           `wire:"ipOwnerId"`
	Allocation ec2.AllocationID `wire:"allocationId"`
	ID         string           `wire:"associationId"`
}

type nicAddress struct {
	Address     string      `wire:"privateIpAddress"`
	DNS         string      `wire:"privateDnsName"`
	Primary     bool        `wire:"primary"`
	Association *publicItem `wire:"association"`
}

// A nicItem is an interface in answers about its instance.
type nicItem struct {
	ID             ec2.InterfaceID `wire:"networkInterfaceId"`
	Subnet         ec2.SubnetID    `wire:"subnetId"`
	VPC            ec2.VPCID       `wire:"vpcId"`
	Description    wire.Present    `wire:"description"`
	Owner          ec2.AccountID   `wire:"ownerId"`
	Status         string          `wire:"status"`
	MAC            string          `wire:"macAddress"`
	PrivateAddress string          `wire:"privateIpAddress"`
	PrivateDNS     string          `wire:"privateDnsName"`
	Checked        bool            `wire:"sourceDestCheck"`
	Groups         []groupName     `wire:"groupSet"`
	Attachment     *attachmentItem `wire:"attachment"`
	Association    *publicItem     `wire:"association"`
	Addresses      []nicAddress    `wire:"privateIpAddressesSet"`
	IPv6Addresses  []tag           `wire:"ipv6AddressesSet"`
	Type           string          `wire:"interfaceType"`
	Operator       operatorItem    `wire:"operator"`
}

func (c *call) newInterfaceItem(eni *ec2.Interface) interfaceItem {
	item := interfaceItem{Tags: c.tags(string(eni.ID)), nicItem: nicItem{
		ID:             eni.ID,
		Subnet:         eni.Subnet,
		VPC:            eni.VPC,
		Description:    wire.Present(eni.Description),
		Owner:          eni.Account,
		Status:         "available",
		MAC:            eni.MAC.String(),
		PrivateAddress: eni.Private.String(),
		PrivateDNS:     privateName(eni.Region, eni.Private),
		Checked:        !eni.Unchecked,
		Groups:         c.groupNames(eni.Groups),
		Type:           "interface",
	}}
	if s, ok := c.view.Subnet(eni.Subnet); ok {
		item.Zone, item.ZoneID = s.Zone, region.ZoneID(s.Zone)
	}
	if eni.External != nil { // shows which node the interface is attached at
		item.Requester, item.Managed = string(eni.Node), true
	}
	if eni.NATGateway != "" {
		item.Type, item.Managed, item.Requester = "nat_gateway", true, string(eni.Node)
	}
	for n, pair := range eni.Addresses() {
		a := nicAddress{Address: pair.Private.String(), DNS: privateName(eni.Region, pair.Private), Primary: n == 0}
		a.Association = c.newAssociation(eni, pair)
		item.Addresses = append(item.Addresses, a)
	}
	item.Association = item.Addresses[0].Association
	c.showAttachment(&item, eni)
	return item
}

func (c *call) showAttachment(item *interfaceItem, eni *ec2.Interface) {
	at := eni.Attachment
	if at == nil {
		return
	}
	a := &attachmentItem{
		ID: at.ID, Instance: eni.Instance, InstanceOwner: eni.Account, DeviceIndex: at.DeviceIndex,
		Status: "attached", Time: at.Time, DeleteOnTermination: at.DeleteOnTermination,
	}
	item.Status, item.Attachment = "in-use", a
	if eni.NATGateway != "" {
		a.InstanceOwner = "amazon-aws"
	}
	i, ok := c.view.Instance(eni.Instance)
	if at.Detaching || ok && i.State == ec2.ShuttingDown {
		item.Status, a.Status = "detaching", "detaching"
	}
}

func (c *call) newAssociation(eni *ec2.Interface, pair ec2.AddressPair) *publicItem {
	if !pair.Public.IsValid() {
		return nil
	}
	a := &publicItem{Public: pair.Public.String(), Owner: "amazon"}
	if vpc, ok := c.view.VPC(eni.VPC); ok && vpc.DNSHostnames {
		a.PublicDNS = wire.Present(publicName(eni.Region, pair.Public))
	}
	for e := range c.view.ElasticAddressesOf(eni.Account, eni.Region) {
		if e.Public == pair.Public {
			a.Owner, a.Allocation, a.ID = string(e.Account), e.ID, string(e.Association)
		}
	}
	return a
}

// nics shows the interfaces of an instance, sorted by device index.
func (c *call) nics(i *ec2.Instance) []nicItem {
	var list []nicItem
	for eni := range c.view.InterfacesAt(i.ID) {
		x := c.newInterfaceItem(eni)
		x.Attachment.Instance, x.Attachment.InstanceOwner = "", ""
		for n := range x.Addresses {
			if a := x.Addresses[n].Association; a != nil {
				a.Allocation, a.ID = "", "" // not shown for an instance
			}
		}
		list = append(list, x.nicItem)
	}
	slices.SortFunc(list, func(a, b nicItem) int { return a.Attachment.DeviceIndex - b.Attachment.DeviceIndex })
	return list
}
