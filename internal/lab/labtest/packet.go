package labtest

import (
	"cmp"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A packet is the first packet that a command sends, in the words of `palisade trace`.
type packet struct {
	from string // an instance's id, laptop or stranger
	to   string // an IPv4 address
	what string // tcp/22, udp/53, icmp
}

// clients are the programs whose first packet packetOf knows.
var clients = []string{"nmap", "ncat", "ping", "curl", "ssh"}

// packetOf returns the first packet of a command that runs in the namespace of from, if the
// command is one of clients and names an IPv4 address.
func packetOf(from string, argv []string) (packet, bool) {
	at := slices.IndexFunc(argv, func(arg string) bool { return slices.Contains(clients, arg) })
	if at < 0 {
		return packet{}, false
	}
	p, program, args := packet{from: from}, argv[at], argv[at+1:]
	protocol, port := "tcp", ""
	for i, arg := range args {
		next := ""
		if i+1 < len(args) {
			next = args[i+1]
		}
		switch {
		case p.to == "" && addressIn(arg) != "":
			p.to = addressIn(arg)
			if u, err := url.Parse(arg); program == "curl" && err == nil {
				port = u.Port()
			}
			if program == "ncat" {
				port = firstNumber.FindString(next)
			}
		case arg == "-sU", arg == "-u" && program == "ncat":
			protocol = "udp"
		case arg == "-p" && program != "ncat" && program != "ping":
			port = firstNumber.FindString(next)
		case program == "nmap" && strings.HasPrefix(arg, "-p"):
			port = firstNumber.FindString(arg)
		}
	}
	p.what = protocol + "/" + cmp.Or(port, map[string]string{"ssh": "22", "curl": "80"}[program], "1")
	if program == "ping" {
		p.what = "icmp"
	}
	return p, p.to != ""
}

var firstNumber = regexp.MustCompile(`[0-9]+`)

// addressIn returns the IPv4 address in 10.0.0.1, root@10.0.0.1 or http://10.0.0.1:80/, or "".
func addressIn(arg string) string {
	_, host, ok := strings.Cut(arg, "@")
	if !ok {
		host = arg
	}
	if u, err := url.Parse(arg); err == nil && u.Host != "" {
		host = u.Hostname()
	}
	if a, err := netip.ParseAddr(host); err != nil || !a.Is4() {
		return ""
	}
	return host
}

// portNamed is a port in nmap's words, as a test expects it: "22/tcp open".
var portNamed = regexp.MustCompile(`\b([0-9]+)/(tcp|udp)\b`)

// expecting returns p with the port that text names, if it names one: a scan sends many packets,
// and the failure says which of them mattered.
func (p packet) expecting(text string) packet {
	if m := portNamed.FindStringSubmatch(text); m != nil {
		p.what = m[2] + "/" + m[1]
	}
	return p
}
