package ec2

import "testing"

func TestCIDRBlocksAreReadStrictly(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"203.0.113.25/32", "203.0.113.25/32"},
		{"100.68.0.18/18", "100.68.0.0/18"},
		{"10.10.1.44/27", "10.10.1.32/27"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"203.0.113.5", ""},
		{"010.0.0.0/8", ""},
		{"10.0.0.0/08", ""},
		{"10.0.0.0/+8", ""},
		{"10.0.0/8", ""},
		{"10.0.0.0/33", ""},
		{"10.0.0.0/-1", ""},
		{" 10.0.0.0/8", ""},
		{"10.0.0.0/8 ", ""},
		{"0x0a.0.0.0/8", ""},
		{"10.0.0.256/32", ""},
		{"::/0", ""},
		{"::ffff:10.0.0.0/104", ""},
		{"10.0.0.0%eth0/8", ""},
		{"", ""},
	} {
		got, err := ParseCIDR(c.text)
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("ParseCIDR(%q) = %v, %v, want %q", c.text, got, err, c.want)
		}
	}
}

func TestProtocolsAreReadByNameAndNumber(t *testing.T) {
	for _, c := range []struct {
		text string
		want Protocol
		ok   bool
	}{
		{"tcp", TCP, true}, {"TCP", TCP, true}, {"6", TCP, true}, {"Icmp", ICMP, true}, {"-1", AnyProtocol, true}, {"all", 0, false}, {"ALL", 0, false},
		{"58", ICMPv6, true}, {"255", 255, true}, {"256", 0, false}, {"300", 0, false}, {"-2", 0, false}, {"06", 0, false}, {"", 0, false}, {"tcp ", 0, false},
	} {
		if got, err := ParseProtocol(c.text); (err == nil) != c.ok || got != c.want && c.ok {
			t.Errorf("ParseProtocol(%q) = %v, %v, want %v, accepted: %v", c.text, got, err, c.want, c.ok)
		}
	}
}
