package state

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// Limits of DHCP options (Amazon VPC User Guide, "DHCP option sets"). The length of a value is our
// own limit.
const (
	maxDHCPServers = 4
	maxDHCPValue   = 255
)

// CreateDHCPOptions makes a set of DHCP options. Result: DHCP.
type CreateDHCPOptions struct {
	Account ec2.AccountID
	Region  ec2.Region
	Options []ec2.DHCPOption
	Tags    map[string]string `json:",omitempty"`
}

func (r *CreateDHCPOptions) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	if len(r.Options) == 0 {
		return Result{}, ec2.Missing("dhcpConfiguration")
	}
	for n, o := range r.Options {
		if slices.ContainsFunc(r.Options[:n], func(x ec2.DHCPOption) bool { return x.Key == o.Key }) {
			return Result{}, ec2.Errorf("InvalidParameterValue", "The DHCP option %s is given twice", ec2.Clip(o.Key))
		}
		if err := checkDHCPOption(o); err != nil {
			return Result{}, err
		}
	}
	count := 0
	for range rows[ec2.DHCPOptions](t.Txn, tableDHCP, indexOwner, key(r.Account)+key(r.Region)) {
		count++
	}
	if limit := t.limits().DHCPOptionsPerRegion; count >= limit {
		return Result{}, ec2.Errorf("ResourceLimitExceeded", "The maximum number of sets of DHCP options in a region, %d, has been reached.", limit)
	}
	set := &ec2.DHCPOptions{ID: ec2.DHCPOptionsID(t.meta.longID("dopt", t.serial())), Account: r.Account, Region: r.Region, Options: r.Options}
	t.put(tableDHCP, set)
	if err := t.tag(string(set.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{DHCP: set}, nil
}

func checkDHCPOption(o ec2.DHCPOption) error {
	most := 1
	var valid func(string) bool
	switch o.Key {
	case "":
		return ec2.Missing("dhcpConfiguration.key")
	case "domain-name":
		valid = func(v string) bool { return v != "" && ec2.Printable(v, maxDHCPValue) }
	case "domain-name-servers":
		most, valid = maxDHCPServers, func(v string) bool { return v == "AmazonProvidedDNS" || isAddress(v) }
	case "ntp-servers":
		most, valid = maxDHCPServers, isAddress
	case "netbios-name-servers":
		most, valid = maxDHCPServers, func(v string) bool { a, err := netip.ParseAddr(v); return err == nil && a.Is4() }
	case "netbios-node-type":
		valid = func(v string) bool { return slices.Contains([]string{"1", "2", "4", "8"}, v) }
	case "ipv6-address-preferred-lease-time":
		valid = func(v string) bool { return v != "" && len(v) <= 10 && strings.Trim(v, "0123456789") == "" }
	default:
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter name is invalid. Unknown DHCP option", ec2.Clip(o.Key))
	}
	switch {
	case len(o.Values) == 0:
		return ec2.Missing("dhcpConfiguration.value")
	case len(o.Values) > most:
		return ec2.Errorf("InvalidParameterValue", "The DHCP option %s has %d values; at most %d are allowed", o.Key, len(o.Values), most)
	}
	for _, v := range o.Values {
		if !valid(v) {
			return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter value is invalid. Invalid DHCP option value for %s", ec2.Clip(v), o.Key)
		}
	}
	return nil
}

func isAddress(v string) bool {
	a, err := netip.ParseAddr(v)
	return err == nil && a.Zone() == ""
}

// DeleteDHCPOptions deletes a set that no VPC has. Result: DHCP.
type DeleteDHCPOptions struct {
	Account ec2.AccountID
	Region  ec2.Region
	Options ec2.DHCPOptionsID
}

func (r *DeleteDHCPOptions) apply(t *tx) (Result, error) {
	set, err := findDHCP(t.Txn, owner{r.Account, r.Region}, r.Options)
	if err != nil {
		return Result{}, err
	}
	var users []string
	for v := range rows[ec2.VPC](t.Txn, tableVPC, indexOwner, key(r.Account)+key(r.Region)) {
		if v.DHCPOptions == set.ID || v.DHCPOptions == "" && set.ID == DefaultDHCPOptions(r.Account, r.Region).ID {
			users = append(users, string(v.ID))
		}
	}
	if len(users) > 0 {
		return Result{}, hasDependents("dhcpOptions", set.ID, users)
	}
	if first[ec2.DHCPOptions](t.Txn, tableDHCP, indexID, key(set.ID)) == nil {
		return Result{}, ec2.Errorf("OperationNotPermitted", "The DHCP options '%s' are the default ones of the region, and stay.", set.ID)
	}
	t.untag(string(set.ID))
	t.del(tableDHCP, set)
	return Result{DHCP: set}, nil
}

// AssociateDHCPOptions gives a VPC another set, or none if Options is NoDHCPOptions. Result: VPC.
type AssociateDHCPOptions struct {
	Account ec2.AccountID
	Region  ec2.Region
	VPC     ec2.VPCID
	Options ec2.DHCPOptionsID
}

func (r *AssociateDHCPOptions) apply(t *tx) (Result, error) {
	if r.Options != ec2.NoDHCPOptions {
		if _, err := findDHCP(t.Txn, owner{r.Account, r.Region}, r.Options); err != nil {
			return Result{}, err
		}
	}
	was, err := t.vpc(r.Account, r.Region, r.VPC)
	if err != nil {
		return Result{}, err
	}
	now := *was
	now.DHCPOptions = r.Options
	if r.Options == DefaultDHCPOptions(r.Account, r.Region).ID {
		now.DHCPOptions = ""
	}
	t.put(tableVPC, &now)
	return Result{VPC: &now}, nil
}

// DefaultDHCPOptions returns the set that an account's VPCs in a region have at first. It is in no
// table: its id is computed from account and region.
func DefaultDHCPOptions(account ec2.AccountID, region ec2.Region) *ec2.DHCPOptions {
	domain := string(region) + ".compute.internal"
	if region == "us-east-1" {
		domain = "ec2.internal"
	}
	sum := sha256.Sum256([]byte(key(account) + key(region)))
	return &ec2.DHCPOptions{
		ID: ec2.DHCPOptionsID(fmt.Sprintf("dopt-0%x", sum[:8])), Account: account, Region: region,
		Options: []ec2.DHCPOption{{Key: "domain-name", Values: []string{domain}}, {Key: "domain-name-servers", Values: []string{"AmazonProvidedDNS"}}},
	}
}

// DHCPOptionsOf yields the sets of an account in a region: the default one, if the account uses VPCs,
// and those that it made.
func (v *View) DHCPOptionsOf(account ec2.AccountID, region ec2.Region) iter.Seq[*ec2.DHCPOptions] {
	return func(yield func(*ec2.DHCPOptions) bool) {
		if hasDefaultDHCP(v.txn(), owner{account, region}) && !yield(DefaultDHCPOptions(account, region)) {
			return
		}
		for set := range rows[ec2.DHCPOptions](v.txn(), tableDHCP, indexOwner, key(account)+key(region)) {
			if !yield(set) {
				return
			}
		}
	}
}

// hasDefaultDHCP reports whether an account has the default set: accounts of EC2-Classic have it
// only with a VPC.
func hasDefaultDHCP(txn *memdb.Txn, by owner) bool {
	a := first[ec2.Account](txn, tableAccount, indexID, key(by.account))
	if a != nil && a.Platform != ec2.Classic {
		return true
	}
	return first[ec2.VPC](txn, tableVPC, indexOwner, key(by.account)+key(by.region)) != nil
}

func findDHCP(txn *memdb.Txn, by owner, id ec2.DHCPOptionsID) (*ec2.DHCPOptions, error) {
	if d := DefaultDHCPOptions(by.account, by.region); id == d.ID && hasDefaultDHCP(txn, by) {
		return d, nil
	}
	return find[ec2.DHCPOptions](txn, ofDHCP, by, id)
}
