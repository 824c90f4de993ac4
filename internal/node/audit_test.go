package node

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
	"palisade/internal/node/control"
)

func TestAuditRequestFiltersRecords(t *testing.T) {
	n := newNode(t, nodeConfig(t))
	n.start(t)
	for _, c := range []struct {
		account ec2.AccountID
		action  string
		request state.Request
	}{
		{albert, "CreateSecurityGroup", &state.CreateSecurityGroup{Account: albert, Region: "us-east-1", Name: "web", Description: "x"}},
		{albert, "CreateSecurityGroup", &state.CreateSecurityGroup{Account: albert, Region: "us-east-1", Name: "web", Description: "x"}},
		{albert, "TerminateInstances", &state.TerminateInstances{Account: albert, Region: "us-east-1", Instances: []ec2.InstanceID{"i-00000001"}}},
	} {
		_, _, _ = (backend{n.Node}).Apply(t.Context(), state.Command{Request: c.request, Audit: &ec2.Audit{
			Account: c.account, Region: "us-east-1", Action: c.action, Source: "192.0.2.1", RequestID: "id",
		}})
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
		var got []control.AuditEntry
		if ask(c.q, &got); len(got) != c.want {
			t.Errorf("query %v returns %d entries, want %d: %+v", c.q, len(got), c.want, got)
		}
	}
	var all []control.AuditEntry
	ask(url.Values{}, &all)
	if a := all[1]; a.Number != 2 || a.Name != "albert" || a.Error != "InvalidGroup.Duplicate" {
		t.Errorf("the second entry is %+v, want the failed request of albert", a)
	}
	if a := all[3]; a.Account != "" || a.Source != "control socket of node1" || a.Error != "InvalidNode.NotFound" || a.Parameters["Node"] != "node7" {
		t.Errorf("the last entry is %+v, want the refused removal of node7 over the control socket", a)
	}
	var trail struct{ Records []query.CloudTrailEvent }
	ask(url.Values{"form": {"cloudtrail"}}, &trail)
	if len(trail.Records) != 4 || trail.Records[3].Identity.Type != "AWSService" || trail.Records[0].EventID == trail.Records[1].EventID {
		t.Errorf("the CloudTrail events are %+v, want 4 with different ids, the last by an AWSService", trail)
	}
}
