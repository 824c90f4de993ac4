package deps

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet/packettest"
)

// The table of docs/SECURITY.md has one row for each threat, with the tests that prove the
// defence against it on one node and across nodes. If a row names the corpus of attack
// frames, the corpus has frames of that threat. TestDocumentsNameExistingTests checks that
// the named tests exist.
func TestEveryThreatHasAProof(t *testing.T) {
	text, err := os.ReadFile("../../docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	corpus := map[string]bool{}
	host := func(n byte) packettest.Host {
		return packettest.Host{MAC: ec2.MAC{2, 0, 0, 0, 0, n}, Addr: netip.AddrFrom4([4]byte{10, 0, 0, n})}
	}
	for _, threat := range packettest.Threats(packettest.Field{Gateway: host(1), Attacker: host(2), Victim: host(3), Member: host(4), Unused: host(5).Addr, Open: 22}) {
		corpus[threat.ID] = true
	}
	row := regexp.MustCompile(`(?m)^\| (T\d\d) \|(.*)\|$`)
	proof := regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+|\b[a-z]+\.txtar\b|\bcorpus\b`)
	said := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		id, cells := m[1], strings.Split(m[2], "|")
		if said[id] || len(cells) != 4 {
			t.Errorf("threat %s has two rows, or its row has %d cells instead of 4", id, len(cells))
			continue
		}
		said[id] = true
		for i, column := range []string{"on one node", "across nodes"} {
			cell := strings.TrimSpace(cells[2+i])
			if !proof.MatchString(cell) && id != "T58" { // threat T58 cannot happen across nodes
				t.Errorf("the row of threat %s names no test as proof %s: %q", id, column, cell)
			}
			if strings.Contains(cell, "corpus") && !corpus[id] {
				t.Errorf("the row of threat %s names the corpus as proof %s, but the corpus has no frame of this threat", id, column)
			}
		}
		if corpus[id] && !strings.Contains(m[2], "corpus") {
			t.Errorf("threat %s has frames in the corpus, but its row does not name the corpus", id)
		}
		delete(corpus, id)
	}
	for n := 1; n <= 58; n++ {
		if id := fmt.Sprintf("T%02d", n); !said[id] {
			t.Errorf("threat %s has no row in the table", id)
		}
	}
	checkClusterThreats(t, string(text))
	for id := range corpus {
		t.Errorf("the corpus has frames of threat %s, which has no row in the table", id)
	}
}

// checkClusterThreats checks that each threat to the cluster has one row, with an attack, a defence and
// a test.
func checkClusterThreats(t *testing.T, text string) {
	t.Helper()
	proof := regexp.MustCompile(`\bTest[A-Z]\w+`)
	rows := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^\| (P\d\d) \|(.*)\|$`).FindAllStringSubmatch(text, -1) {
		id, cells := m[1], strings.Split(m[2], "|")
		rows[id]++
		if len(cells) != 3 {
			t.Errorf("the row of threat %s has %d cells instead of 3", id, len(cells))
		} else if !proof.MatchString(cells[2]) {
			t.Errorf("the row of threat %s names no test: %q", id, cells[2])
		}
	}
	for n := 1; n <= 12; n++ {
		if id := fmt.Sprintf("P%02d", n); rows[id] != 1 {
			t.Errorf("threat %s has %d rows, want 1", id, rows[id])
		}
	}
}
