package query_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"palisade/ec2/query"
)

func stale(r *http.Request) { r.Header.Set(query.ReadHeader, "stale") }

// TestStaleReadNeedsNoLeader: it says of which index it is, and nothing but a Describe may
// be asked so.
func TestStaleReadNeedsNoLeader(t *testing.T) {
	w, f := newLameWorld(t)
	const describe = "Action=DescribeSecurityGroups&Version=2016-11-15"
	f.read = []error{noLeader{"cut off"}, noLeader{"cut off"}}
	if status, code := answer(t, w.post(t, describe, nil)); status != 503 || code != "Unavailable" {
		t.Fatalf("a read as ever: got %d %s, want 503 Unavailable", status, code)
	}
	res := w.post(t, describe, stale)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	index, err := strconv.ParseUint(res.Header.Get(query.IndexHeader), 10, 64)
	if res.StatusCode != 200 || err != nil || index == 0 || !strings.Contains(string(body), "<groupName>default</groupName>") {
		t.Errorf("a stale read: got %d of index %d (%v): %s", res.StatusCode, index, err, body)
	}
	if len(f.read) != 1 {
		t.Errorf("a stale read asked the leader")
	}
	create := "Action=CreateSecurityGroup&GroupName=a&GroupDescription=x&Version=2016-11-15"
	if _, code := answer(t, w.post(t, create, stale)); code != "InvalidParameterCombination" {
		t.Errorf("a stale change: got %s, want InvalidParameterCombination", code)
	}
	if _, code := answer(t, w.post(t, describe, func(r *http.Request) { r.Header.Set(query.ReadHeader, "old") })); code != "InvalidParameterValue" {
		t.Errorf("another way to read: got %s, want InvalidParameterValue", code)
	}
}
