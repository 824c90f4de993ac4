package state

import (
	"fmt"
	"testing"
	"time"

	"palisade/ec2"
)

const (
	ops  = ec2.AccountID("210987654321")
	west = ec2.Region("us-west-2")
)

// A peeringWorld has VPCs of dev and ops in us-east-1, one of dev in us-west-2, and a group in each.
type peeringWorld struct {
	*replay
	near, far, distant         *ec2.VPC // 10.0.0.0/16 of dev, 10.1.0.0/16 of ops, 10.2.0.0/16 of dev in the west
	nearGroup, farGroup, third *ec2.Group
}

func newPeeringWorld(t testing.TB) *peeringWorld {
	r := newVPCReplay(t)
	r.must(&PutNode{ec2.Node{ID: "node3", Zone: "us-west-2c"}})
	r.must(&PutNetwork{ec2.Network{VNI: 203, Region: west, Prefix: cidr("10.0.0.0/8")}})
	r.must(&CreateAccount{ID: ops, Name: "ops", Platform: ec2.VPCOnly, AccessKey: "AKIDOPS", Secret: "o"})
	w := &peeringWorld{replay: r}
	w.near = r.must(&CreateVPC{Account: dev, Region: east, CIDR: cidr("10.0.0.0/16")}).VPC
	w.far = r.must(&CreateVPC{Account: ops, Region: east, CIDR: cidr("10.1.0.0/16")}).VPC
	w.distant = r.must(&CreateVPC{Account: dev, Region: west, CIDR: cidr("10.2.0.0/16")}).VPC
	w.nearGroup = r.must(&CreateSecurityGroup{Account: dev, Region: east, VPC: w.near.ID, Name: "web", Description: "x"}).Group
	w.farGroup = r.must(&CreateSecurityGroup{Account: ops, Region: east, VPC: w.far.ID, Name: "db", Description: "x"}).Group
	w.third = r.must(&CreateSecurityGroup{Account: dev, Region: west, VPC: w.distant.ID, Name: "log", Description: "x"}).Group
	return w
}

func (w *peeringWorld) request() *ec2.VPCPeering {
	w.t.Helper()
	return w.must(&CreateVPCPeering{Account: dev, Region: east, VPC: w.near.ID, PeerAccount: ops, PeerVPC: w.far.ID}).Peering
}

// active returns an active peering of near and far.
func (w *peeringWorld) active() *ec2.VPCPeering {
	w.t.Helper()
	return w.must(&AcceptVPCPeering{ops, east, w.request().ID}).Peering
}

// naming returns the rule that admits a group, by id, to near's group.
func (w *peeringWorld) naming(ref ec2.GroupRef) *AuthorizeRules {
	return &AuthorizeRules{Account: dev, Region: east, Group: GroupSelector{ID: w.nearGroup.ID}, Direction: ec2.Ingress, IPv6: true,
		Rules: []RuleSpec{{Protocol: ec2.TCP, From: 443, To: 443, Group: ref}}}
}

func (w *peeringWorld) status(id ec2.PeeringID) ec2.PeeringStatus {
	p, ok := w.state.View().Peering(id)
	if !ok {
		return "gone"
	}
	return p.Status
}

// sees says which of dev and ops see a peering in us-east-1.
func (w *peeringWorld) sees(id ec2.PeeringID) string {
	text := ""
	for _, account := range []ec2.AccountID{dev, ops} {
		for p := range w.state.View().PeeringsOf(account, east) {
			if p.ID == id {
				text += map[ec2.AccountID]string{dev: "dev ", ops: "ops "}[account]
			}
		}
	}
	return text
}

func TestPeeringIsActiveOnlyAfterItsOwnerAccepts(t *testing.T) {
	w := newPeeringWorld(t)
	p := w.request()
	if p.Status != ec2.PeeringPending || w.sees(p.ID) != "dev ops " || p.Requester.VNI != w.near.VNI || p.Accepter.VNI != w.far.VNI {
		t.Errorf("the request is %+v and seen by %q, want it pending and seen by both", p, w.sees(p.ID))
	}
	w.refused(&AcceptVPCPeering{dev, east, p.ID}, "OperationNotPermitted")
	w.refused(&RejectVPCPeering{dev, east, p.ID}, "OperationNotPermitted")
	w.refused(&DeleteVPCPeering{ops, east, p.ID}, "OperationNotPermitted")
	w.refused(&AcceptVPCPeering{ops, west, p.ID}, "InvalidVpcPeeringConnectionID.NotFound")
	w.refused(&AcceptVPCPeering{mary, east, p.ID}, "InvalidVpcPeeringConnectionID.NotFound")
	w.refused(&AcceptVPCPeering{ops, east, "pcx-x"}, "InvalidVpcPeeringConnectionId.Malformed")
	if got := w.must(&AcceptVPCPeering{ops, east, p.ID}).Peering; got.Status != ec2.PeeringActive {
		t.Errorf("the accepted peering is %s", got.Status)
	}
	w.refused(&RejectVPCPeering{ops, east, p.ID}, "InvalidStateTransition")
	w.refused(&CreateVPCPeering{Account: ops, Region: east, VPC: w.far.ID, PeerAccount: dev, PeerVPC: w.near.ID}, "VpcPeeringConnectionAlreadyExists")
}

func TestPeeringOfTwoRegionsIsAcceptedInTheAcceptersRegion(t *testing.T) {
	w := newPeeringWorld(t)
	p := w.must(&CreateVPCPeering{Account: dev, Region: east, VPC: w.near.ID, PeerRegion: west, PeerVPC: w.distant.ID}).Peering
	w.refused(&AcceptVPCPeering{dev, east, p.ID}, "OperationNotPermitted")
	w.must(&AcceptVPCPeering{dev, west, p.ID})
	w.refused(w.naming(ec2.GroupRef{ID: w.third.ID, Account: dev}), "InvalidGroup.NotFound") // groups do not cross regions
	w.refused(&ModifyVPCPeering{dev, east, p.ID, nil, new(true)}, "OperationNotPermitted")
	w.must(&ModifyVPCPeering{dev, west, p.ID, nil, new(true)})
	if got := w.must(&ModifyVPCPeering{dev, east, p.ID, new(true), nil}).Peering; !got.Requester.DNS || !got.Accepter.DNS {
		t.Errorf("the options are %+v and %+v, want both set", got.Requester, got.Accepter)
	}
}

func TestPeeringFailsIfBlocksOverlapOrThereIsNoSuchVPC(t *testing.T) {
	w := newPeeringWorld(t)
	same := w.must(&CreateVPC{Account: ops, Region: east, CIDR: cidr("10.0.128.0/20")}).VPC
	for what, r := range map[string]*CreateVPCPeering{
		"overlap":         {Account: dev, Region: east, VPC: w.near.ID, PeerAccount: ops, PeerVPC: same.ID},
		"another account": {Account: dev, Region: east, VPC: w.near.ID, PeerVPC: w.far.ID},
		"another region":  {Account: dev, Region: east, VPC: w.near.ID, PeerAccount: ops, PeerRegion: west, PeerVPC: w.far.ID},
		"no VPC":          {Account: dev, Region: east, VPC: w.near.ID, PeerVPC: "vpc-0123"},
	} {
		p := w.must(r).Peering
		if p.Status != ec2.PeeringFailed || w.sees(p.ID) != "dev " {
			t.Errorf("%s: the peering is %s and seen by %q, want it failed and seen by dev alone", what, p.Status, w.sees(p.ID))
		}
		w.refused(&DeleteVPCPeering{dev, east, p.ID}, "InvalidStateTransition")
	}
	late := w.request()
	w.must(&AssociateVPCBlock{dev, east, w.near.ID, cidr("10.1.64.0/20")})
	if got := w.must(&AcceptVPCPeering{ops, east, late.ID}).Peering; got.Status != ec2.PeeringFailed {
		t.Errorf("a request whose VPCs overlap by now is %s when it is accepted, want failed", got.Status)
	}
}

func TestPeeringRequestExpiresAfterSevenDays(t *testing.T) {
	w := newPeeringWorld(t)
	p := w.request()
	w.now = w.now.Add(peeringRequestFor)
	if due, ok := w.state.View().SweepDue(); !ok || !due.Equal(w.now) {
		t.Errorf("a sweep is due at %v (%t), want %v, when the request expires", due, ok, w.now)
	}
	w.now = w.now.Add(-time.Second)
	w.must(&Sweep{})
	if w.status(p.ID) != ec2.PeeringPending {
		t.Errorf("after almost seven days the request is %s", w.status(p.ID))
	}
	w.now = w.now.Add(time.Second)
	w.refused(&AcceptVPCPeering{ops, east, p.ID}, "InvalidStateTransition") // although no sweep came yet
	w.must(&Sweep{})
	if w.status(p.ID) != ec2.PeeringExpired || w.sees(p.ID) != "dev ops " {
		t.Errorf("after seven days the request is %s and seen by %q, want it expired and seen by both", w.status(p.ID), w.sees(p.ID))
	}
	w.request()
	w.now = w.now.Add(endedForOther)
	w.must(&Sweep{})
	if w.status(p.ID) != "gone" {
		t.Errorf("two days later the expired request is %s", w.status(p.ID))
	}
}

func TestEndedPeeringIsSeenForATime(t *testing.T) {
	for _, c := range []struct {
		end         func(*peeringWorld) ec2.PeeringID
		after, last string // who sees it after two hours, and whether that is by
	}{
		{func(w *peeringWorld) ec2.PeeringID {
			return w.must(&DeleteVPCPeering{dev, east, w.active().ID}).Peering.ID
		}, "ops ", ""},
		{func(w *peeringWorld) ec2.PeeringID {
			return w.must(&DeleteVPCPeering{ops, east, w.active().ID}).Peering.ID
		}, "dev ", ""},
		{func(w *peeringWorld) ec2.PeeringID {
			return w.must(&RejectVPCPeering{ops, east, w.request().ID}).Peering.ID
		}, "dev ", ""},
	} {
		w := newPeeringWorld(t)
		id := c.end(w)
		if w.sees(id) != "dev ops " {
			t.Errorf("at first the peering is seen by %q, want both", w.sees(id))
		}
		w.now = w.now.Add(endedForActor)
		w.must(&Sweep{})
		if w.sees(id) != c.after {
			t.Errorf("after two hours the peering is seen by %q, want %q", w.sees(id), c.after)
		}
		w.now = w.now.Add(endedForOther)
		w.must(&Sweep{})
		if w.status(id) != "gone" {
			t.Errorf("after two days the peering is %s", w.status(id))
		}
	}
}

func TestPeeringsHaveLimits(t *testing.T) {
	w := newPeeringWorld(t)
	w.must(&putSettings{ec2.Settings{PeeringRequests: 1, PeeringsPerVPC: 1, VPCsPerRegion: 20}})
	p := w.request()
	other := w.must(&CreateVPC{Account: ops, Region: east, CIDR: cidr("10.3.0.0/16")}).VPC
	more := &CreateVPCPeering{Account: dev, Region: east, VPC: w.near.ID, PeerAccount: ops, PeerVPC: other.ID}
	w.refused(more, "OutstandingVpcPeeringConnectionLimitExceeded")
	w.must(&AcceptVPCPeering{ops, east, p.ID})
	w.refused(more, "ActiveVpcPeeringConnectionPerVpcLimitExceeded")
	incoming := w.must(&CreateVPCPeering{Account: ops, Region: east, VPC: other.ID, PeerAccount: dev, PeerVPC: w.near.ID}).Peering
	w.refused(&AcceptVPCPeering{dev, east, incoming.ID}, "ActiveVpcPeeringConnectionPerVpcLimitExceeded")

	w.must(&putSettings{ec2.Settings{PeeringRequests: 2, VPCsPerRegion: 20}})
	for i := range keptEndedPeerings + 10 {
		w.must(&CreateVPCPeering{Account: ops, Region: east, VPC: w.far.ID, PeerVPC: ec2.VPCID(fmt.Sprintf("vpc-%d", i)), Tags: map[string]string{"n": "1"}})
		w.now = w.now.Add(time.Millisecond)
		w.must(&DeleteVPCPeering{ops, east, incoming.ID})
		incoming = w.must(&CreateVPCPeering{Account: ops, Region: east, VPC: other.ID, PeerAccount: dev, PeerVPC: w.near.ID}).Peering
	}
	ended, tags := 0, 0
	for q := range w.state.View().PeeringsOf(ops, east) {
		if q.Ended() {
			ended++
		}
		for range w.state.View().TagsBy(ops, east, string(q.ID)) {
			tags++
		}
	}
	if ended > keptEndedPeerings+1 || tags > ended {
		t.Errorf("ops keeps %d peerings that have ended, with %d tags, want at most %d", ended, tags, keptEndedPeerings)
	}
}

func TestVPCWithAPeeringIsNotDeletedUnlessSomebodyElseAsked(t *testing.T) {
	w := newPeeringWorld(t)
	w.must(&DeleteSecurityGroup{dev, east, GroupSelector{ID: w.nearGroup.ID}})
	w.must(&DeleteSecurityGroup{ops, east, GroupSelector{ID: w.farGroup.ID}})
	p := w.request()
	w.refused(&DeleteVPC{dev, east, w.near.ID}, "DependencyViolation") // its own request
	w.must(&AcceptVPCPeering{ops, east, p.ID})
	w.refused(&DeleteVPC{dev, east, w.near.ID}, "DependencyViolation")
	w.refused(&DeleteVPC{ops, east, w.far.ID}, "DependencyViolation")
	w.must(&DeleteVPCPeering{ops, east, p.ID})
	again := w.request()
	w.must(&DeleteVPC{ops, east, w.far.ID})
	if w.status(again.ID) != ec2.PeeringRejected {
		t.Errorf("a request to a VPC that was deleted is %s, want rejected", w.status(again.ID))
	}
	w.must(&DeleteVPC{dev, east, w.near.ID})
}

func TestBlockMayNotOverlapWithAPeer(t *testing.T) {
	w := newPeeringWorld(t)
	p := w.active()
	w.refused(&AssociateVPCBlock{dev, east, w.near.ID, cidr("10.1.64.0/20")}, "InvalidVpc.Range")
	w.must(&DeleteVPCPeering{dev, east, p.ID})
	w.must(&AssociateVPCBlock{dev, east, w.near.ID, cidr("10.1.64.0/20")})
}

func TestBothOwnersOfAPeeringHaveTheirOwnTags(t *testing.T) {
	w := newPeeringWorld(t)
	p := w.request()
	id := string(p.ID)
	w.must(&CreateTags{dev, east, []string{id}, map[string]string{"Name": "to ops"}})
	w.must(&CreateTags{ops, east, []string{id}, map[string]string{"Name": "to dev", "x": "y"}})
	w.refused(&CreateTags{mary, east, []string{id}, map[string]string{"Name": "z"}}, "InvalidVpcPeeringConnectionID.NotFound")
	w.must(&DeleteTags{Account: ops, Region: east, Resources: []string{id}, Tags: []TagSelector{{Key: "x"}}})
	for account, want := range map[ec2.AccountID]string{dev: "Name=to ops ", ops: "Name=to dev "} {
		got := ""
		for tag := range w.state.View().TagsBy(account, east, id) {
			got += tag.Key + "=" + tag.Value + " "
		}
		if got != want {
			t.Errorf("%s sees the tags %q, want %q", account, got, want)
		}
	}
	w.must(&DeleteTags{Account: ops, Region: east, Resources: []string{id}})
	for range w.state.View().TagsBy(ops, east, id) {
		t.Error("a tag of ops is left")
	}
	for range w.state.View().TagsBy(dev, east, id) {
		return
	}
	t.Error("the tag of dev went with those of ops")
}
