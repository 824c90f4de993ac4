package scenarios

import "github.com/rogpeppe/go-internal/testscript"

// clearNetworks releases the elastic addresses and deletes every VPC except the default one. The
// caller has deleted all instances and all groups except those named default.
func (p *player) clearNetworks(ts *testscript.TestScript) error {
	if err := p.clearNATGateways(ts); err != nil {
		return err
	}
	rows, err := p.rows(ts, "ec2-describe-addresses")
	if err != nil {
		return err
	}
	for _, r := range rows { // ADDRESS IP INSTANCE DOMAIN ALLOCATION ASSOCIATION …
		if r[0] != "ADDRESS" {
			continue
		}
		if r[5] != "" {
			if _, err := p.rows(ts, "ec2-disassociate-address", "-a", r[5]); err != nil {
				return err
			}
		}
		if _, err := p.rows(ts, "ec2-release-address", "-a", r[4]); err != nil {
			return err
		}
	}
	vpcs, err := p.rows(ts, "ec2-describe-vpcs", "-F", "is-default=false")
	if err != nil {
		return err
	}
	for _, v := range vpcs {
		if v[0] != "VPC" {
			continue
		}
		if err := p.clearVPC(ts, v[1]); err != nil {
			return err
		}
	}
	return nil
}

// clearVPC deletes a VPC and the resources in it, each one before the resources that it depends on.
func (p *player) clearVPC(ts *testscript.TestScript, vpc string) error {
	for _, of := range []struct {
		list, filter, title string
		deletes             func(row []string) [][]string
	}{
		{"ec2-describe-network-interfaces", "vpc-id", "NETWORKINTERFACE", func(r []string) [][]string {
			return [][]string{{"ec2-delete-network-interface", r[1]}}
		}},
		{"ec2-describe-internet-gateways", "attachment.vpc-id", "INTERNETGATEWAY", func(r []string) [][]string {
			return [][]string{{"ec2-detach-internet-gateway", r[1], "-c", vpc}, {"ec2-delete-internet-gateway", r[1]}}
		}},
		{"ec2-describe-subnets", "vpc-id", "SUBNET", func(r []string) [][]string {
			return [][]string{{"ec2-delete-subnet", r[1]}}
		}},
		{"ec2-describe-network-acls", "vpc-id", "NETWORKACL", func(r []string) [][]string {
			if len(r) > 3 { // the default ACL, which goes with its VPC
				return nil
			}
			return [][]string{{"ec2-delete-network-acl", r[1]}}
		}},
	} {
		rows, err := p.rows(ts, of.list, "-F", of.filter+"="+vpc)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r[0] != of.title {
				continue
			}
			for _, command := range of.deletes(r) {
				if _, err := p.rows(ts, command...); err != nil {
					return err
				}
			}
		}
	}
	// Deleting the VPC deletes its main route table.
	rows, err := p.rows(ts, "ec2-describe-route-tables", "-F", "vpc-id="+vpc)
	if err != nil {
		return err
	}
	tables := map[string]bool{} // by id: whether it is the main table
	for _, r := range rows {
		switch r[0] {
		case "ROUTETABLE":
			tables[r[1]] = false
		case "ASSOCIATION":
			tables[r[2]] = tables[r[2]] || r[3] == "main"
		}
	}
	for table, main := range tables {
		if main {
			continue
		}
		if _, err := p.rows(ts, "ec2-delete-route-table", table); err != nil {
			return err
		}
	}
	return p.deleteVPC(ts, vpc)
}
