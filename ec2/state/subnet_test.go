package state

import (
	"fmt"
	"testing"

	"palisade/ec2"
)

func TestSubnetsLieInTheirVPCAndDoNotOverlap(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/17")
	r.must(&CreateVPC{Account: mary, Region: east, CIDR: cidr("10.0.0.0/17")})
	create := func(block, zone string) Request {
		return &CreateSubnet{Account: albert, Region: east, VPC: vpc.ID, CIDR: cidr(block), Zone: zone}
	}
	if s := r.must(create("10.0.1.0/24", "")).Subnet; s.Zone != "us-east-1a" || s.MapPublic || s.Default || s.VPC != vpc.ID {
		t.Errorf("the subnet is %+v, want it in zone us-east-1a of its VPC", s)
	}
	r.must(create("10.0.2.0/28", "us-east-1b"))
	for _, c := range []struct{ block, zone, code string }{
		{"10.0.1.0/24", "us-east-1b", "InvalidSubnet.Conflict"},
		{"10.0.0.0/17", "us-east-1b", "InvalidSubnet.Conflict"},
		{"10.0.1.128/25", "us-east-1b", "InvalidSubnet.Conflict"},
		{"10.0.128.0/24", "us-east-1b", "InvalidSubnet.Range"},
		{"10.0.0.0/16", "us-east-1b", "InvalidSubnet.Range"},
		{"10.0.3.0/29", "us-east-1b", "InvalidSubnet.Range"},
		{"10.0.3.1/24", "us-east-1b", "InvalidSubnet.Range"},
		{"192.168.0.0/24", "us-east-1b", "InvalidSubnet.Range"},
		{"10.0.3.0/24", "us-east-1z", "InvalidParameterValue"},
		{"10.0.3.0/24", "eu-west-1a", "InvalidParameterValue"},
	} {
		r.refused(create(c.block, c.zone), c.code)
	}
	r.refused(&CreateSubnet{Account: albert, Region: east, VPC: vpc.ID}, "MissingParameter")
	r.refused(&CreateSubnet{Account: mary, Region: east, VPC: vpc.ID, CIDR: cidr("10.0.3.0/24")}, "InvalidVpcID.NotFound")
	r.refused(&CreateSubnet{Account: albert, Region: east, CIDR: cidr("10.0.3.0/24")}, "MissingParameter")
	r.must(create("10.0.3.0/24", "us-east-1b"))
}

func TestSubnetsAreLimited(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/16")
	for n := range 200 {
		r.subnet(vpc, fmt.Sprintf("10.0.%d.0/24", n), "us-east-1a")
	}
	one := &CreateSubnet{Account: albert, Region: east, VPC: vpc.ID, CIDR: cidr("10.0.200.0/24")}
	r.refused(one, "SubnetLimitExceeded")
	r.must(&putSettings{ec2.Settings{SubnetsPerVPC: 201}})
	r.must(one)
}

func TestSubnetIsModifiedAndDeleted(t *testing.T) {
	r := newVPCReplay(t)
	vpc := r.vpc(albert, "10.0.0.0/16")
	s := r.subnet(vpc, "10.0.1.0/24", "us-east-1a")
	rt := r.must(&CreateRouteTable{Account: albert, Region: east, VPC: vpc.ID}).RouteTable
	r.must(&AssociateRouteTable{albert, east, rt.ID, s.ID})
	r.must(&CreateTags{albert, east, []string{string(s.ID)}, map[string]string{"k": "v"}})
	r.must(&ModifySubnet{albert, east, s.ID, new(true)})
	if now, _ := r.state.View().Subnet(s.ID); !now.MapPublic {
		t.Errorf("the subnet is %+v, want MapPublic on", now)
	}
	r.must(&ModifySubnet{albert, east, s.ID, new(false)})
	if now, _ := r.state.View().Subnet(s.ID); now.MapPublic {
		t.Errorf("the subnet is %+v, want MapPublic off", now)
	}
	r.refused(&ModifySubnet{albert, east, s.ID, nil}, "MissingParameter")
	r.refused(&ModifySubnet{mary, east, s.ID, new(true)}, "InvalidSubnetID.NotFound")
	r.refused(&DeleteSubnet{mary, east, s.ID}, "InvalidSubnetID.NotFound")
	r.refused(&DeleteSubnet{albert, east, ""}, "MissingParameter")
	r.must(&DeleteSubnet{albert, east, s.ID})
	if now, _ := r.state.View().RouteTable(rt.ID); len(now.Associations) != 0 {
		t.Errorf("the deleted subnet is still associated with table %+v", now)
	}
	if got := r.tags(string(s.ID)); got != "" {
		t.Errorf("the deleted subnet still has tags %s", got)
	}
}

func TestSubnetHasFiveReservedAddresses(t *testing.T) {
	r := newVPCReplay(t)
	made := r.subnet(r.vpc(albert, "10.0.0.0/16"), "10.0.1.0/28", "us-east-1a")
	if got := r.state.View().FreeAddresses(made); got != 11 {
		t.Errorf("%d addresses are free, want 11", got)
	}
}

func TestLaunchesGoToDefaultSubnets(t *testing.T) {
	r := newVPCReplay(t)
	where := func(account ec2.AccountID, zone string) string {
		tx := newTx(r.state.current.Load().db.Snapshot(), r.state.Index()+1)
		defer tx.Abort()
		s, err := tx.defaultSubnet(account, east, zone)
		if err != nil {
			return err.(*ec2.Error).Code
		}
		return s.CIDR.String()
	}
	for _, c := range []struct {
		account    ec2.AccountID
		zone, want string
	}{
		{dev, "", "172.31.0.0/20"},
		{dev, "us-east-1b", "172.31.16.0/20"},
		{dev, "us-east-1z", "InvalidParameterValue"},
		{albert, "", "VPCIdNotSpecified"},
	} {
		if got := where(c.account, c.zone); got != c.want {
			t.Errorf("a launch of %s into zone %q goes to %s, want %s", c.account, c.zone, got, c.want)
		}
	}
	for s := range r.state.View().SubnetsIn(r.defaultVPC().ID) {
		r.must(&DeleteSubnet{dev, east, s.ID})
	}
	for _, zone := range []string{"", "us-east-1a"} {
		if got := where(dev, zone); got != "MissingInput" {
			t.Errorf("without subnets a launch into zone %q goes to %s, want MissingInput", zone, got)
		}
	}
}
