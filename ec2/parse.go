package ec2

import (
	"net/netip"
	"strconv"
	"strings"
)

// String returns the protocol as EC2 shows it: tcp, udp, icmp and icmpv6 by name, others by
// number.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	case ICMPv6:
		return "icmpv6"
	}
	return strconv.Itoa(int(p))
}

// HasRange reports whether a rule of the protocol has ports, or an ICMP type and code.
func (p Protocol) HasRange() bool {
	return p == TCP || p == UDP || p == ICMP || p == ICMPv6
}

// ParseProtocol reads a protocol name, in upper or lower case, or a number. The word "all" is none:
// the aws command line sends -1 for it.
func ParseProtocol(text string) (Protocol, error) {
	switch strings.ToLower(text) {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	case "icmp":
		return ICMP, nil
	case "icmpv6":
		return ICMPv6, nil
	case "-1":
		return AnyProtocol, nil
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return 0, Errorf("InvalidParameterValue", "Invalid value '%s' for IP protocol. Unknown protocol.", Clip(text))
	}
	return Protocol(n), nil
}

// ParseCIDR reads an IPv4 CIDR block and masks it. It accepts four decimal numbers without
// leading zeros, which some programs read as octal, and a length without sign. A tolerant
// parser could open a firewall to the wrong network.
func ParseCIDR(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, Errorf("InvalidParameterValue", "CIDR block %s is malformed", Clip(text))
	}
	return p.Masked(), nil
}

// ParseCIDR6 reads an IPv6 CIDR block and masks it.
func ParseCIDR6(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() {
		return netip.Prefix{}, Errorf("InvalidParameterValue", "CIDR block %s is malformed", Clip(text))
	}
	return p.Masked(), nil
}
