package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/internal/node/control"
)

func TestAuditRequestFiltersRecords(t *testing.T) {
	n := newNode(t, nodeConfig(t))
	n.start(t)
	for _, form := range []string{
		"Action=CreateSecurityGroup&GroupName=web&GroupDescription=x", "Action=CreateSecurityGroup&GroupName=web&GroupDescription=again",
		"Action=TerminateInstances&InstanceId.1=i-00000001",
	} {
		n.ask(signed(t, form+"&Version=2016-11-15", "secret"))
	}
	if _, err := request[control.NodeChange](t, n, "POST", "/v1/cluster/remove", control.NodeRequest{Node: "node7"}); err == nil {
		t.Error("remove of an unknown node succeeded")
	}

	ask := func(q url.Values, into any) {
		t.Helper()
		w := httptest.NewRecorder()
		n.control.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/audit?"+q.Encode(), nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); w.Code != 200 || err != nil {
			t.Fatalf("query %v: status %d, body %s, decoding error %v", q, w.Code, w.Body, err)
		}
	}
	for _, c := range []struct {
		q    url.Values
		want int
	}{
		{url.Values{}, 4},
		{url.Values{"account": {"albert"}}, 3},
		{url.Values{"account": {string(albert)}, "action": {"createsecuritygroup"}}, 2},
		{url.Values{"action": {"RemoveNode"}}, 1},
		{url.Values{"account": {"mary"}}, 0},
		{url.Values{"since": {time.Now().Add(time.Hour).Format(time.RFC3339)}}, 0},
		{url.Values{"since": {time.Now().Add(-time.Hour).Format(time.RFC3339)}}, 4},
	} {
		var got control.AuditLog
		if ask(c.q, &got); len(got.Records) != c.want {
			t.Errorf("query %v returns %d entries, want %d: %+v", c.q, len(got.Records), c.want, got.Records)
		}
	}
	var log control.AuditLog
	ask(url.Values{}, &log)
	all := log.Records
	if a := all[1]; a.Number != 1 || a.Name != "albert" || a.Error != "InvalidGroup.Duplicate" || a.RefusedBy != "node1" {
		t.Errorf("the second entry is %+v, want the refused request of albert, kept by node1", a)
	}
	if a := all[3]; a.Account != "" || a.Source != "control socket of node1" || a.Error != "InvalidNode.NotFound" || a.Parameters["Node"] != "node7" {
		t.Errorf("the last entry is %+v, want the refused removal of node7 over the control socket", a)
	}
	if c := log.Counts["node1"]; c[albert]["InvalidGroup.Duplicate"] != 1 || c[""]["InvalidNode.NotFound"] != 1 {
		t.Errorf("the counts of node1 are %v, want each refused call once", c)
	}
	var trail struct{ Records []query.CloudTrailEvent }
	ask(url.Values{"form": {"cloudtrail"}}, &trail)
	if len(trail.Records) != 4 || trail.Records[3].Identity.Type != "AWSService" || trail.Records[0].EventID == trail.Records[1].EventID {
		t.Errorf("the CloudTrail events are %+v, want 4 with different ids, the last by an AWSService", trail)
	}
}

// refuse makes the API of a node refuse a call of albert, with another action each time.
func (n testNode) refuse(t *testing.T, times int) {
	t.Helper()
	for i := range times {
		form := fmt.Sprintf("Action=DeleteSecurityGroup&Version=2016-11-15&GroupName=none%d", i)
		if got := n.ask(signed(t, form, plainText)); got.Code != http.StatusBadRequest {
			t.Fatalf("call %d: status %d with %s, want 400", i, got.Code, got.Body)
		}
	}
}

// TestRefusedCallsAreKeptByTheirNode: a refused call does not become an entry of the log. palisade audit shows the calls
// that any node refused, and which nodes could not be asked. They survive a restart.
func TestRefusedCallsAreKeptByTheirNode(t *testing.T) {
	_, second, one, _ := twoNodes(t, ec2.NonVoter)
	two := newNode(t, second)
	stopTwo := two.start(t)
	waitLeader := func(n testNode) {
		t.Helper()
		if got := n.ask(signed(t, "Action=DescribeRegions&Version=2016-11-15", plainText)); got.Code != http.StatusOK {
			t.Fatalf("%s: status %d with %s, want 200", n.config.Name, got.Code, got.Body)
		}
	}
	waitLeader(one)
	waitLeader(two)
	before := one.cluster.View().Index()
	one.refuse(t, 20)
	two.refuse(t, 20)
	one.refusals.Add(time.Now(), ec2.Audit{Account: albert, Action: "One"}, &ec2.Error{Code: "X"})
	two.refusals.Add(time.Now(), ec2.Audit{Account: albert, Action: "Two"}, &ec2.Error{Code: "X"})
	if after := one.cluster.View().Index(); after > before+5 {
		t.Errorf("40 refused calls took the log from %d to %d", before, after)
	}
	check := func(n testNode, missing ...ec2.NodeID) {
		t.Helper()
		log, err := request[control.AuditLog](t, n, "GET", "/v1/audit", nil)
		if err != nil {
			t.Fatal(err)
		}
		var from []string
		for _, r := range log.Records {
			if r.Error == "X" {
				from = append(from, string(r.RefusedBy)+" "+r.Action)
			}
		}
		want := []string{"node1 One", "node2 Two"}
		var unasked []ec2.NodeID
		for _, m := range log.Missing {
			unasked = append(unasked, m.Node)
			want = slices.DeleteFunc(want, func(w string) bool { return strings.HasPrefix(w, string(m.Node)) })
		}
		if !slices.Equal(from, want) || !slices.Equal(unasked, missing) {
			t.Errorf("asked at %s: refused calls %v, nodes that are missing %+v; want %v and %v", n.config.Name, from, log.Missing, want, missing)
		}
		total := 0
		for _, r := range log.Records {
			if r.Action == "DeleteSecurityGroup" && r.Error == "InvalidGroup.NotFound" {
				total++
			}
		}
		if len(missing) == 0 && total != 40 {
			t.Errorf("asked at %s: %d refused calls, want 40", n.config.Name, total)
		}
	}
	check(one)
	check(two)
	if err := stopTwo(); err != nil {
		t.Fatal(err)
	}
	check(one, "node2")
	two = newNode(t, second)
	two.start(t)
	waitLeader(two)
	check(two)
}
