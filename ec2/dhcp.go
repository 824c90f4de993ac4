package ec2

// DHCPOptions is a set of options for the DHCP clients of a VPC's instances. It is stored and
// shown; there is no DHCP server.
type DHCPOptions struct {
	ID      DHCPOptionsID
	Account AccountID
	Region  Region
	Options []DHCPOption // each key once
}

// A DHCPOption is one option: "domain-name-servers", with its values.
type DHCPOption struct {
	Key    string
	Values []string
}

// NoDHCPOptions is the id that a VPC has if it is associated with no set.
const NoDHCPOptions DHCPOptionsID = "default"
