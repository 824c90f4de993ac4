package labtest

import (
	"cmp"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A packet is the first packet that a command sends, described by arguments of `palisade trace`.
type packet struct {
	from string // an instance's id, laptop or stranger
	to   string // an IPv4 address
	what string // tcp/22, udp/53, icmp
}

// clients are the programs for which packetOf can tell the first packet.
var clients = []string{"nmap", "ncat", "ping", "curl", "ssh"}

// packetOf returns the first packet of a command that runs in the namespace of from. It returns false if the
// command is none of clients or names no IPv4 address.
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

// addressIn returns the IPv4 address in an argument like 10.0.0.1, root@10.0.0.1 or http://10.0.0.1:80/, or
// "" if there is none.
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

// portNamed matches a port as nmap prints it: "22/tcp".
var portNamed = regexp.MustCompile(`\b([0-9]+)/(tcp|udp)\b`)

// expecting returns p with the port in text, the message of a failure, if it names one. A scan sends packets
// to many ports, and the message tells which port the test checked.
func (p packet) expecting(text string) packet {
	if m := portNamed.FindStringSubmatch(text); m != nil {
		p.what = m[2] + "/" + m[1]
	}
	return p
}
