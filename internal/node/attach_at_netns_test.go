package node

import (
	"errors"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/node/control"
)

// TestOperatorAtAVoterAttachesAtAnotherNode: the operator of a node that is no voter decides nothing for the
// cluster, but detaches what is attached at the node. The audit record of that is the leader's.
func TestOperatorAtAVoterAttachesAtAnotherNode(t *testing.T) {
	netnstest.NeedRoot(t)
	const namespace = "palisade-nt-at"
	if err := errors.Join(netns.Delete(namespace), netns.New(namespace)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netns.Delete(namespace) })
	one, two := withoutKey(t)
	account := control.AccountRequest{Name: "dev", Platform: ec2.VPCOnly}
	if _, err := request[[]control.NewKey](t, two, "POST", "/v1/accounts", account); err == nil || !strings.Contains(err.Error(), "one of the voters: node1") {
		t.Errorf("create an account at node2: error %v, want one that names the voter", err)
	}
	keys, err := request[[]control.NewKey](t, one, "POST", "/v1/accounts", account)
	if err != nil {
		t.Fatal(err)
	}
	r := control.AttachRequest{Namespace: namespace}
	for s := range one.cluster.View().SubnetsOf(keys[0].Account, "us-east-1") {
		if s.Zone == "us-east-1b" {
			r.Subnet = s.ID
		}
	}
	if _, err := request[control.AttachmentStatus](t, two, "POST", "/v1/attach", r); err == nil || !strings.Contains(err.Error(), "no voter") {
		t.Errorf("attach at node2: error %v, want one that says that it is no voter", err)
	}
	r.Node = "node2"
	made, err := request[control.AttachmentStatus](t, one, "POST", "/v1/attach", r)
	if err != nil || made.Node != "node2" || made.Device == "" {
		t.Fatalf("attach at node1 for node2: %+v, error %v", made, err)
	}
	r.Device = made.Device
	if _, err := request[control.AttachmentStatus](t, one, "POST", "/v1/attach", r); err == nil || !strings.Contains(err.Error(), "has a device") {
		t.Errorf("attach a device that exists: error %v, want node2's reason", err)
	}
	if _, err := two.peer.Call(t.Context(), "node1", "control.attachable", []byte(`{}`)); err == nil || !strings.Contains(err.Error(), "no voter") {
		t.Errorf("a node that is no voter asks about devices of a voter: error %v, want a refusal", err)
	}
	if _, err := request[control.AttachmentStatus](t, two, "POST", "/v1/detach", control.DetachRequest{Interface: made.Interface}); err != nil {
		t.Errorf("detach at node2: %v", err)
	}
	var last ec2.AuditRecord
	for a := range one.cluster.View().AuditRecords() {
		last = *a
	}
	if last.Action != "UnregisterInterface" || last.Via != "node2" || last.Source != "control socket of node2" {
		t.Errorf("the audit record is %+v, want the detachment at node2", last)
	}
}
