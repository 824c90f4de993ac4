package query_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

const (
	manyGroups    = 2000
	rulesPerGroup = 60
)

// fill creates many groups in dev's default VPC, each with the greatest number of rules.
func (w *world) fill(t testing.TB) {
	t.Helper()
	const atOnce = 40 // groups in one log entry of a few hundred kilobytes
	for first := 0; first < manyGroups; first += atOnce {
		var batch state.Batch
		for n := first; n < first+atOnce; n++ {
			name := fmt.Sprint("group", n)
			var rules []state.RuleSpec
			for port := range rulesPerGroup - 1 { // a new group already has an egress rule
				rules = append(rules, state.RuleSpec{Protocol: ec2.TCP, From: port, To: port, Prefix: netip.MustParsePrefix("203.0.113.0/24")})
			}
			batch.Requests = append(batch.Requests,
				&state.CreateSecurityGroup{Account: dev, Region: region, Name: name, Description: "x"},
				&state.AuthorizeRules{Account: dev, Region: region, Group: state.GroupSelector{Name: name}, Rules: rules})
		}
		if _, _, err := w.cluster.Apply(t.Context(), state.Command{Request: &batch}); err != nil {
			t.Fatal(err)
		}
	}
}

// asDev sends a request of dev's and reads the answer into body. The caller reuses body, so
// that the test makes little garbage: collecting it would count as time of the server.
func (w *world) asDev(t testing.TB, form string, body *bytes.Buffer) {
	t.Helper()
	form += "&Version=2016-11-15"
	res := do(t, w.signedForm(t, "dev", form))
	defer res.Body.Close()
	body.Reset()
	if _, err := body.ReadFrom(res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: got status %s (%v), want 200:\n%s", form, res.Status, err, body)
	}
}

// processorTime returns the processor time that this process has used.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func TestManyGroupsSlowNoRequest(t *testing.T) {
	w := newWorld(t)
	w.fill(t)
	t.Run("reading all pages of rules takes at most a second", w.testAllPages)
	t.Run("other groups do not slow authorize", w.testAuthorize)
}

// Terraform's revoke_rules_on_delete and inventories read all rules. In one of several
// tries, the elapsed time or the processor time of this process (client, server and
// cluster) must be at most a second. There are several tries because other work on the
// machine slows a try.
func (w *world) testAllPages(t *testing.T) {
	const tries = 8
	for try := range tries {
		took, used := w.readAllPages(t)
		if min(took, used) <= time.Second {
			return
		}
		if try == tries-1 {
			t.Errorf("reading all pages took %v (%v of processor time), want at most a second", took, used)
		}
	}
}

// readAllPages checks that each rule is on exactly one page, and returns the elapsed time
// and the processor time of the requests. The pages are sorted by group and rule, so each
// rule must come after the one before.
func (w *world) readAllPages(t *testing.T) (took, used time.Duration) {
	var body bytes.Buffer
	pages, rules, last := 0, 0, ""
	for token, more := "", true; more; pages++ {
		start, before := time.Now(), processorTime(t)
		w.asDev(t, "Action=DescribeSecurityGroupRules&MaxResults=1000&NextToken="+url.QueryEscape(token), &body)
		took += time.Since(start)
		used += processorTime(t) - before
		page := body.Bytes()
		for {
			var rule, group []byte
			_, page, more = bytes.Cut(page, []byte("<securityGroupRuleId>"))
			if !more {
				break
			}
			rule, page, _ = bytes.Cut(page, []byte("</securityGroupRuleId><groupId>"))
			group, _, _ = bytes.Cut(page, []byte("<"))
			if place := string(group) + string(rule); place > last {
				last = place
			} else {
				t.Fatalf("group and rule %s come after %s, want ascending order", place, last)
			}
			rules++
		}
		page = body.Bytes()
		_, page, more = bytes.Cut(page, []byte("<nextToken>"))
		page, _, _ = bytes.Cut(page, []byte("<"))
		token = string(page)
	}
	t.Logf("read %d rules on %d pages in %v, %v of processor time", rules, pages, took, used)
	if want := manyGroups*rulesPerGroup + 2; rules != want { // the default group has 2
		t.Fatalf("the pages have %d rules, want %d", rules, want)
	}
	return took, used
}

// testAuthorize compares the time of an authorize in w and in an empty world. The worlds
// take turns, so that other work on the machine slows both alike. There are several tries,
// because such work can still slow one world more.
func (w *world) testAuthorize(t *testing.T) {
	empty := newWorld(t)
	const tries = 8
	for try := range tries {
		without, with := authorizeTurnByTurn(t, empty, w, fmt.Sprint("probe", try))
		t.Logf("authorize takes %v in an empty region, %v beside %d groups of %d rules", without, with, manyGroups, rulesPerGroup)
		if with <= without*6/5 {
			return
		}
	}
	t.Errorf("authorize took over 20 %% longer beside %d groups than in an empty region, in each of %d tries", manyGroups, tries)
}

// authorizeTurnByTurn adds 200 rules to groups of each world and returns the median time of
// a request in each. The argument group is the prefix of the names of the groups.
func authorizeTurnByTurn(t *testing.T, a, b *world, group string) (medianA, medianB time.Duration) {
	const times, perGroup = 200, 50
	var body bytes.Buffer
	var took [2][]time.Duration
	for n := range times {
		name := fmt.Sprint(group, "-", n/perGroup)
		for turn := range 2 {
			i := (turn + n) % 2 // each world goes first equally often
			w := []*world{a, b}[i]
			if n%perGroup == 0 {
				w.asDev(t, "Action=CreateSecurityGroup&GroupDescription=x&GroupName="+name, &body)
			}
			start := time.Now()
			w.asDev(t, "Action=AuthorizeSecurityGroupIngress&GroupName="+name+permissionForm(1, "tcp", "1", strconv.Itoa(n+1), "203.0.113.0/24"), &body)
			took[i] = append(took[i], time.Since(start))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	return took[0][times/2], took[1][times/2]
}
