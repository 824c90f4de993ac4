package labtest

import (
	"strings"
	"testing"
)

func TestPacketOfReturnsFirstPacketOfCommand(t *testing.T) {
	for _, tt := range []struct{ command, want string }{
		{"nmap -n -P0 -p22,80 198.18.0.2", "198.18.0.2 tcp/22"},
		{"nmap -n -P0 -sU -p 53,123 10.10.0.2", "10.10.0.2 udp/53"},
		{"nmap -n 10.10.0.2", "10.10.0.2 tcp/1"},
		{"ncat -z -w 1 198.18.0.2 22", "198.18.0.2 tcp/22"},
		{"timeout 5 ncat -u 198.18.0.2 53", "198.18.0.2 udp/53"},
		{"ping -c 1 -W 10 10.10.0.2", "10.10.0.2 icmp"},
		{"curl -s http://198.18.0.2:8000/index", "198.18.0.2 tcp/8000"},
		{"curl -s http://198.18.0.2/", "198.18.0.2 tcp/80"},
		{"ssh -F ssh_config root@198.18.0.2 uname -n", "198.18.0.2 tcp/22"},
		{"ssh -p 2222 root@198.18.0.2", "198.18.0.2 tcp/2222"},
		{"cat /tmp/198.18.0.2", ""},
		{"ping -c 1 example.com", ""},
	} {
		p, ok := packetOf("laptop", strings.Fields(tt.command))
		if got := strings.TrimSpace(p.to + " " + p.what); ok != (tt.want != "") || ok && got != tt.want {
			t.Errorf("%s: packetOf returns %q, %v; want %q", tt.command, got, ok, tt.want)
		}
	}
	p, _ := packetOf("laptop", strings.Fields("nmap -p1-100 198.18.0.2"))
	if got := p.expecting("no match for `^22/tcp +open`").what; got != "tcp/22" {
		t.Errorf("if a test misses port 22 in a scan, the report traces %s, want tcp/22", got)
	}
}
