package state

import (
	"fmt"
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// The functions below check the invariants of single tables. A restored State must keep these
// invariants like every State that Apply made, because Apply relies on them and would panic.

// checkAuditRows checks the chain of each audit ring too, so that a snapshot whose records were
// changed is refused.
func checkAuditRows(t *memdb.Txn, m *meta) error {
	records, kept := 0, uint64(0)
	for r := range rows[ec2.AuditRecord](t, tableAudit, indexID, "") {
		if r.Number == 0 || r.Number > m.Audited {
			return fmt.Errorf("has audit record %d, but only %d were written", r.Number, m.Audited)
		}
		if m.AuditChained != (r.Position != 0) {
			return fmt.Errorf("has audit record %d with position %d, although the records are chained: %t", r.Number, r.Position, m.AuditChained)
		}
		records++
	}
	for ring := range rows[ec2.AuditRing](t, tableAuditRing, indexID, "") {
		previous := ring.Start
		for position := ring.First; position <= ring.Last; position++ {
			r := first[ec2.AuditRecord](t, tableAudit, indexOwner, auditPosition(ring.Account, position))
			if r == nil || r.Hash != r.ChainHash(previous) {
				return fmt.Errorf("audit record %d of account %q is missing or was changed", position, ring.Account)
			}
			previous = r.Hash
			records--
		}
		if ring.First == 0 || previous != ring.End {
			return fmt.Errorf("the audit records of account %q do not end with hash %s", ring.Account, ring.End)
		}
		if ring.Account != "" {
			kept += ring.Kept()
		}
	}
	if m.AuditChained && records != 0 || kept != m.AuditKept {
		return fmt.Errorf("the audit rings have %d records of accounts, not %d, and %d records are in no ring", kept, m.AuditKept, records)
	}
	return nil
}

func checkVPCRows(t *memdb.Txn) error {
	for v := range rows[ec2.VPC](t, tableVPC, indexID, "") {
		if n := first[ec2.Network](t, tableNetwork, indexID, vniKey(v.VNI)); !validRange(v.CIDR) || n == nil || n.VPC != v.ID {
			return fmt.Errorf("VPC %s has range %s and network %d, which is %+v", v.ID, v.CIDR, v.VNI, n)
		}
		if err := checkBlocks(t, v); err != nil {
			return err
		}
		if g := first[ec2.Group](t, tableGroup, indexID, key(v.Group)); g == nil || g.VPC != v.ID {
			return fmt.Errorf("VPC %s has no default group %s", v.ID, v.Group)
		}
		if err := checkACLs(t, v); err != nil {
			return err
		}
		if main := first[ec2.RouteTable](t, tableRoutes, indexID, key(v.RouteTable)); main == nil || main.VPC != v.ID || main.Main == "" {
			return fmt.Errorf("VPC %s has no main route table %s", v.ID, v.RouteTable)
		}
	}
	return nil
}

// checkACLs checks the entries of a VPC's network ACLs, and that its subnets use ACLs of the VPC.
func checkACLs(t *memdb.Txn, v *ec2.VPC) error {
	for acl := range rows[ec2.NetworkACL](t, tableACL, indexVPC, key(v.ID)) {
		for _, e := range acl.Entries {
			if err := checkACLEntry(e); err != nil {
				return fmt.Errorf("network ACL %s has the entry %s: %w", acl.ID, e, err)
			}
		}
	}
	for s := range rows[ec2.Subnet](t, tableSubnet, indexVPC, key(v.ID)) {
		if acl := first[ec2.NetworkACL](t, tableACL, indexID, key(s.ACL)); s.ACL != "" && (acl == nil || acl.VPC != v.ID) {
			return fmt.Errorf("subnet %s of VPC %s has the network ACL %s, which is %+v", s.ID, v.ID, s.ACL, acl)
		}
	}
	return nil
}

// checkBlocks checks that the blocks of a VPC do not overlap and are those of its network.
func checkBlocks(t *memdb.Txn, v *ec2.VPC) error {
	n := first[ec2.Network](t, tableNetwork, indexID, vniKey(v.VNI))
	blocks := v.Blocks()
	for i, b := range blocks {
		if !validRange(b.CIDR) || slices.ContainsFunc(blocks[:i], func(o ec2.VPCBlock) bool { return o.CIDR.Overlaps(b.CIDR) || o.Association == b.Association }) {
			return fmt.Errorf("VPC %s has the block %s, which is invalid or overlaps with another", v.ID, b.CIDR)
		}
		if i > 0 && (len(n.Blocks) != len(v.Secondary) || n.Blocks[i-1] != b.CIDR) {
			return fmt.Errorf("VPC %s has the block %s, but network %d the blocks %v", v.ID, b.CIDR, n.VNI, n.Blocks)
		}
	}
	if n.Prefix != v.CIDR || len(n.Blocks) != len(v.Secondary) {
		return fmt.Errorf("VPC %s has the blocks %v, but network %d has %s and %v", v.ID, blocks, n.VNI, n.Prefix, n.Blocks)
	}
	return nil
}

func checkSubnetRows(t *memdb.Txn) error {
	for s := range rows[ec2.Subnet](t, tableSubnet, indexID, "") {
		if vpc := first[ec2.VPC](t, tableVPC, indexID, key(s.VPC)); !validRange(s.CIDR) || vpc == nil || !vpc.Contains(s.CIDR) {
			return fmt.Errorf("subnet %s has the range %s, which is invalid or in no block of its VPC %q", s.ID, s.CIDR, s.VPC)
		}
	}
	return nil
}

func checkInterfaceRows(t *memdb.Txn, m *meta) error {
	for i := range rows[ec2.Interface](t, tableInterface, indexID, "") {
		if i.Epoch > m.Serial {
			return fmt.Errorf("interface %s has epoch %d, above the last serial", i.ID, i.Epoch)
		}
		if i.VPC != "" {
			if err := checkVPCInterface(t, i); err != nil {
				return err
			}
			continue
		}
		if o := first[ec2.Instance](t, tableInstance, indexID, key(i.Instance)); o == nil || o.Interface != i.ID || o.VPC != "" {
			return fmt.Errorf("interface %s is not the interface of instance %s", i.ID, i.Instance)
		}
	}
	return nil
}

// checkVPCInterface checks that an attached interface has one instance or one external device,
// and that an interface at a node is attached.
func checkVPCInterface(t *memdb.Txn, i *ec2.Interface) error {
	if s := first[ec2.Subnet](t, tableSubnet, indexID, key(i.Subnet)); s == nil || s.VPC != i.VPC || !s.CIDR.Contains(i.Private) {
		return fmt.Errorf("interface %s with address %s is not in subnet %s of VPC %s", i.ID, i.Private, i.Subnet, i.VPC)
	}
	holders := 0
	for _, has := range []bool{i.Instance != "", i.External != nil, i.NATGateway != ""} {
		if has {
			holders++
		}
	}
	if holders > 1 || (holders == 1) != (i.Attachment != nil) {
		return fmt.Errorf("interface %s has instance %q, external device %v and NAT gateway %q, but an attachment connects it with one of them", i.ID, i.Instance, i.External, i.NATGateway)
	}
	if g := first[ec2.NATGateway](t, tableNAT, indexID, key(i.NATGateway)); i.NATGateway != "" && (g == nil || g.Interface != i.ID || i.State != ec2.Active) {
		return fmt.Errorf("interface %s is %s and not the interface of NAT gateway %s", i.ID, i.State, i.NATGateway)
	}
	if (i.State == ec2.Idle) != (i.Node == "") || i.State != ec2.Idle && i.Attachment == nil || i.State == ec2.Idle && i.External != nil {
		return fmt.Errorf("interface %s is %s at node %q, but only an attached interface that is not idle is at a node", i.ID, i.State, i.Node)
	}
	if i.Instance == "" {
		return nil
	}
	o := first[ec2.Instance](t, tableInstance, indexID, key(i.Instance))
	if o == nil || o.VPC != i.VPC || o.State == ec2.Terminated {
		return fmt.Errorf("interface %s is attached to instance %s, which does not exist, is terminated or is in another VPC", i.ID, i.Instance)
	}
	if (i.Attachment.DeviceIndex == 0) != (o.Interface == i.ID) {
		return fmt.Errorf("interface %s has device index %d of instance %s, whose primary interface is %s", i.ID, i.Attachment.DeviceIndex, o.ID, o.Interface)
	}
	return nil
}

func checkInstanceRows(t *memdb.Txn) error {
	for i := range rows[ec2.Instance](t, tableInstance, indexID, "") {
		eni := first[ec2.Interface](t, tableInterface, indexID, key(i.Interface))
		if (i.Interface != "") != (eni != nil) {
			return fmt.Errorf("instance %s names interface %s, which does not exist", i.ID, i.Interface)
		}
		ended := i.State == ec2.Terminated || i.State == ec2.Stopped && i.VPC == ""
		if ended == (eni != nil) || eni != nil && eni.Instance != i.ID {
			return fmt.Errorf("instance %s is %s and has interface %q, which is missing, superfluous or of another instance", i.ID, i.State, i.Interface)
		}
	}
	return nil
}

func checkVolumeRows(t *memdb.Txn) error {
	for v := range rows[ec2.Volume](t, tableVolume, indexID, "") {
		for _, a := range v.Attachments {
			if i := first[ec2.Instance](t, tableInstance, indexID, key(a.Instance)); i == nil || i.State == ec2.Terminated {
				return fmt.Errorf("volume %s is attached to instance %s, which does not exist or is terminated", v.ID, a.Instance)
			}
		}
		if _, ok := diskTypes[v.Type]; !ok || v.Size < 1 || len(v.Attachments) > 1 && !v.MultiAttach {
			return fmt.Errorf("volume %s has %d GiB of type %q and %d attachments, which no volume has", v.ID, v.Size, v.Type, len(v.Attachments))
		}
	}
	return nil
}

func checkAddressRows(t *memdb.Txn) error {
	for a := range rows[address](t, tableAddress, indexID, "") {
		if a.Interface != "" && first[ec2.Interface](t, tableInterface, indexID, key(a.Interface)) == nil {
			return fmt.Errorf("address %s belongs to interface %s, which does not exist", a.Addr, a.Interface)
		}
	}
	return nil
}

// checkPeeringRows checks that the VPCs of a live peering exist, and that no two have more than one.
func checkPeeringRows(t *memdb.Txn) error {
	pairs := make(map[[2]ec2.VPCID]ec2.PeeringID)
	for p := range rows[ec2.VPCPeering](t, tablePeering, indexID, "") {
		for _, s := range []ec2.PeeringSide{p.Requester, p.Accepter} {
			v := ownedRow[ec2.VPC](t, tableVPC, owner{s.Account, s.Region}, s.VPC)
			if p.Active() && (v == nil || v.VNI != s.VNI) {
				return fmt.Errorf("peering %s is %s, and its VPC %s does not exist or has another VNI than %d", p.ID, p.Status, s.VPC, s.VNI)
			}
		}
		pair := [2]ec2.VPCID{min(p.Requester.VPC, p.Accepter.VPC), max(p.Requester.VPC, p.Accepter.VPC)}
		if p.Active() && pairs[pair] != "" {
			return fmt.Errorf("peerings %s and %s are both active and of the same VPCs", pairs[pair], p.ID)
		}
		if p.Active() {
			pairs[pair] = p.ID
		}
	}
	return nil
}

func checkLaunchRows(t *memdb.Txn) error {
	for x := range rows[ec2.LaunchTemplate](t, tableTemplate, indexID, "") {
		if first[ec2.LaunchTemplateVersion](t, tableTemplateVersion, indexID, versionKey(x.ID, x.Default)) == nil {
			return fmt.Errorf("launch template %s has no version %d, its default one", x.ID, x.Default)
		}
	}
	for v := range rows[ec2.LaunchTemplateVersion](t, tableTemplateVersion, indexID, "") {
		if x := first[ec2.LaunchTemplate](t, tableTemplate, indexID, key(v.Template)); x == nil || v.Number < 1 || v.Number > x.Latest {
			return fmt.Errorf("version %d of launch template %s belongs to no template, or is above its latest", v.Number, v.Template)
		}
	}
	for v := range rows[ec2.VPC](t, tableVPC, indexID, "") {
		if v.DHCPOptions == "" || v.DHCPOptions == ec2.NoDHCPOptions {
			continue
		}
		if ownedRow[ec2.DHCPOptions](t, tableDHCP, owner{v.Account, v.Region}, v.DHCPOptions) == nil {
			return fmt.Errorf("VPC %s has the DHCP options %s, which do not exist", v.ID, v.DHCPOptions)
		}
	}
	return nil
}
