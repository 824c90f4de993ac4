package scenarios

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdScanned checks the last output, which nmap -oG - printed. It must list this number of hosts. On each,
// exactly the given ports must be open, and all other scanned ports filtered. A closed port fails the check,
// because its host received the scan.
func (p *player) cmdScanned(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || args[1] != "open" {
		ts.Fatalf("usage: scanned HOSTS open PORT,...|nothing")
	}
	hosts, err := strconv.Atoi(args[0])
	ts.Check(err)
	want := strings.TrimPrefix(args[2], "nothing")
	found := scannedHost.FindAllStringSubmatch(ts.ReadFile("stdout"), -1)
	for _, host := range found {
		got, err := openPorts(host[2])
		if err == nil && got != want {
			err = fmt.Errorf("open ports %q, want %q", got, want)
		}
		if err != nil {
			ts.Fatalf("%s: %v: %s", host[1], err, host[2])
		}
	}
	if len(found) != hosts {
		ts.Fatalf("the scan lists %d hosts, want %d", len(found), hosts)
	}
	p.narrator.note("%d hosts scanned, open: %s, all other ports filtered", hosts, args[2])
}

// scannedHost matches the line of one host:
//
//	Host: 10.10.0.2 ()	Ports: 22/filtered/tcp//ssh///, 80/open/tcp//http///	Ignored State: filtered (98)
var scannedHost = regexp.MustCompile(`(?m)^Host: (\S+) .*\t(Ports: .*|Status: Down.*)$`)

// openPorts returns the open ports in a line that scannedHost matches, such as "22,80". It returns an error if
// a port is neither open nor filtered.
func openPorts(line string) (string, error) {
	var open []string
	list, rest, _ := strings.Cut(strings.TrimPrefix(line, "Ports: "), "\t")
	if state, ok := strings.CutPrefix(rest, "Ignored State: "); ok && !strings.HasPrefix(state, "filtered ") {
		return "", fmt.Errorf("the ports that nmap does not list are %s, want filtered", state)
	}
	for entry := range strings.SplitSeq(list, ", ") {
		fields := strings.Split(entry, "/")
		switch {
		case entry == "":
		case len(fields) > 1 && fields[1] == "open":
			open = append(open, fields[0])
		case len(fields) > 1 && fields[1] == "filtered":
		default:
			return "", fmt.Errorf("port %q is neither open nor filtered", entry)
		}
	}
	return strings.Join(open, ","), nil
}
