package scenarios

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdScanned checks the last output, of nmap -oG -: it must tell of so many hosts, and of
// each that these ports are open, or nothing is, and all others that were scanned are
// filtered. A port that is closed was reached, and differs.
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
			err = fmt.Errorf("open are %q, want %q", got, want)
		}
		if err != nil {
			ts.Fatalf("%s: %v: %s", host[1], err, host[2])
		}
	}
	if len(found) != hosts {
		ts.Fatalf("%d hosts were scanned, want %d", len(found), hosts)
	}
	p.narrator.note("%d scanned, open: %s, all else filtered", hosts, args[2])
}

// scannedHost is one host's line:
//
//	Host: 10.10.0.2 ()	Ports: 22/filtered/tcp//ssh///, 80/open/tcp//http///	Ignored State: filtered (98)
var scannedHost = regexp.MustCompile(`(?m)^Host: (\S+) .*\t(Ports: .*|Status: Down.*)$`)

// openPorts reads the ports of such a line: those that are open, if all others are filtered.
func openPorts(line string) (string, error) {
	var open []string
	list, rest, _ := strings.Cut(strings.TrimPrefix(line, "Ports: "), "\t")
	if state, ok := strings.CutPrefix(rest, "Ignored State: "); ok && !strings.HasPrefix(state, "filtered ") {
		return "", fmt.Errorf("others are %s", state)
	}
	for entry := range strings.SplitSeq(list, ", ") {
		fields := strings.Split(entry, "/")
		switch {
		case entry == "":
		case len(fields) > 1 && fields[1] == "open":
			open = append(open, fields[0])
		case len(fields) > 1 && fields[1] == "filtered":
		default:
			return "", fmt.Errorf("neither open nor filtered: %q", entry)
		}
	}
	return strings.Join(open, ","), nil
}
