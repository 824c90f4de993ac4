package query_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/internal/refusal"
)

// records returns the audit records, then the calls that were refused.
func (w *world) records() (list []*ec2.AuditRecord) {
	for r := range w.cluster.View().AuditRecords() {
		list = append(list, r)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.refused {
		list = append(list, &w.refused[i])
	}
	return list
}

// Each call for a change is recorded with its caller: in the state if it was carried out, else by the
// node that refused it. Reads and dry runs are not recorded. No record has a secret.
func TestChangesAreAudited(t *testing.T) {
	w := newWorld(t)
	const v = "&Version=2016-11-15"
	agent := func(r *http.Request) { r.Header.Set("User-Agent", "aws-cli/2.9.19 "+strings.Repeat("x", 300)) }
	first := w.post(t, "Action=CreateSecurityGroup&GroupName=web&GroupDescription=web+servers"+v, agent)
	answer(t, first)
	w.postAll(t,
		"Action=CreateSecurityGroup&GroupName=web&GroupDescription=again"+v,
		"Action=DescribeSecurityGroups"+v,
		"Action=DescribeSecurityGroups&GroupName.1=none"+v,
		"Action=CreateSecurityGroup&GroupName=dry&GroupDescription=x&DryRun=true"+v,
		"Action=CreateSecurityGroup&GroupName=web&GroupDescription=x&DryRun=true"+v,
		"Action=CreateSecurityGroup&GroupName=default&GroupDescription="+strings.Repeat("d", 600)+v,
		"Action=RunInstances&ImageId=ami-eca54085&MinCount=1&MaxCount=1&UserData=c2VjcmV0"+v,
		"Action=AuthorizeSecurityGroupIngress&GroupName=web&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=22&IpPermissions.1.ToPort=22&IpPermissions.1.IpRanges.2.CidrIp=192.0.2.0/24&IpPermissions.1.IpRanges.1.CidrIp=203.0.113.0/24"+v,
		"Action=TerminateInstances"+manyInstances()+v,
		"Action=CreateSecurityGroup&GroupName=mistake"+v,
	)
	got := w.records()
	var codes []string
	for _, r := range got {
		codes = append(codes, r.Action+" "+r.Error)
		if r.Account != albert || r.AccessKey != "AKIDALBERT" || r.Region != region || r.Source != "127.0.0.1" || len(r.RequestID) != 36 || time.Since(r.Time).Abs() > time.Minute {
			t.Errorf("the record is %+v, want account %s and key AKIDALBERT in %s from 127.0.0.1, a request id of 36 bytes, and a time within a minute of now", r, albert, region)
		}
	}
	want := []string{
		"CreateSecurityGroup ", "RunInstances ", "AuthorizeSecurityGroupIngress ",
		"CreateSecurityGroup InvalidGroup.Duplicate", "CreateSecurityGroup InvalidGroup.Reserved", "TerminateInstances InvalidInstanceID.NotFound",
		"CreateSecurityGroup MissingParameter",
	}
	if diff := cmp.Diff(want, codes); diff != "" {
		t.Fatalf("actions and errors of the records (-want +got):\n%s", diff)
	}
	if id := first.Header.Get("x-amzn-RequestId"); got[0].RequestID != id || len(got[0].UserAgent) > 260 || !strings.HasPrefix(got[0].UserAgent, "aws-cli/2.9.19 ") {
		t.Errorf("the record of request %s is %+v, want that id and a user agent of aws-cli/2.9.19 with at most 260 bytes", id, got[0])
	}
	if diff := cmp.Diff(map[string]string{"GroupName": "web", "GroupDescription": "web servers"}, got[0].Parameters); diff != "" {
		t.Errorf("parameters of the first record (-want +got):\n%s", diff)
	}
	if p := got[1].Parameters; p["UserData"] != "<sensitiveDataRemoved>" || p["ImageId"] != "ami-eca54085" {
		t.Errorf("the record of a launch has the parameters %v, want the image and no user data", p)
	}
	size := 0
	for name, value := range got[5].Parameters {
		size += len(name) + len(value)
	}
	if size > 5000 || got[5].Parameters["..."] == "" {
		t.Errorf("the record of a long request has %d bytes, want at most 5000 and a parameter ...: %v", size, got[5].Parameters)
	}

	numbered := *got[2]
	numbered.Number = 5
	event, err := json.Marshal(query.NewCloudTrailEvent("seed", &numbered))
	if err != nil {
		t.Fatal(err)
	}
	var e map[string]any
	if err := json.Unmarshal(event, &e); err != nil {
		t.Fatal(err)
	}
	e["eventTime"], e["requestID"], e["userAgent"] = "", "", ""
	wantEvent := map[string]any{
		"eventVersion": "1.08", "eventTime": "", "eventSource": "ec2.amazonaws.com", "eventName": "AuthorizeSecurityGroupIngress", "awsRegion": "us-east-1",
		"sourceIPAddress": "127.0.0.1", "userAgent": "", "requestID": "", "eventID": "39304971-dced-8ed9-bc01-6b8f6f2443eb", "readOnly": false,
		"eventType": "AwsApiCall", "managementEvent": true, "recipientAccountId": albert, "eventCategory": "Management", "responseElements": nil,
		"userIdentity": map[string]any{"type": "Root", "principalId": albert, "arn": "arn:aws:iam::598916040194:root", "accountId": albert, "accessKeyId": "AKIDALBERT"},
		"requestParameters": map[string]any{"groupName": "web", "ipPermissions": map[string]any{"items": []any{map[string]any{
			"ipProtocol": "tcp", "fromPort": "22", "toPort": "22",
			"ipRanges": map[string]any{"items": []any{map[string]any{"cidrIp": "203.0.113.0/24"}, map[string]any{"cidrIp": "192.0.2.0/24"}}},
		}}}},
	}
	if diff := cmp.Diff(wantEvent, e); diff != "" {
		t.Errorf("the CloudTrail event (-want +got):\n%s", diff)
	}
	refused := query.NewRefusedEvent("seed", "node1", &refusal.Refusal{Number: 5, Audit: got[4].Audit, Error: got[4].Error, Message: got[4].Message})
	if refused.ErrorCode != "Client.InvalidGroup.Reserved" || refused.ErrorMessage == "" || refused.Recipient != albert || refused.EventID == wantEvent["eventID"] {
		t.Errorf("the event of a refused change is %+v, want code Client.InvalidGroup.Reserved, a message, and another id than change 5", refused)
	}
}

// A call of an unknown caller is counted, not recorded.
func TestCallsOfUnknownCallersAreCounted(t *testing.T) {
	w := newWorld(t)
	const form = "Action=CreateSecurityGroup&GroupName=web&GroupDescription=x&Version=2016-11-15"
	for range 3 {
		r := httpRequest(t, http.MethodPost, w.url, form)
		sign(t, r, form, "nobody", "ec2", time.Now())
		answer(t, do(t, r))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counted[" AuthFailure"] != 3 || len(w.refused) != 0 {
		t.Errorf("counted %v and recorded %v, want 3 calls with AuthFailure and no record", w.counted, w.refused)
	}
}

func (w *world) postAll(t *testing.T, forms ...string) {
	t.Helper()
	for _, form := range forms {
		answer(t, w.post(t, form, nil))
	}
}

func manyInstances() string {
	var b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&b, "&InstanceId.%d=i-0123456789abcdef0", i+1)
	}
	return b.String()
}
