package state

import (
	"strings"
	"testing"

	"palisade/ec2"
)

// furnishedSnapshot returns a snapshot with a running and a stopped instance in a VPC, each with two
// interfaces, an interface at an external device, and an elastic address.
func furnishedSnapshot(t testing.TB) string {
	w := newVPCWorld(t)
	runs, stopped := w.running(), w.running()
	w.attach(w.create(InterfaceSpec{SecondaryCount: 1}).ID, runs, 1)
	w.attach(w.create(InterfaceSpec{}).ID, stopped, 1)
	w.stop(stopped)
	w.must(&RegisterInterface{Account: dev, Region: east, Node: "node4", External: ec2.ExternalDevice{Device: "tap0"}, Spec: InterfaceSpec{Subnet: w.subnet.ID}})
	e := w.must(&AllocateAddress{Account: dev, Region: east}).Elastic
	w.must(&AssociateAddress{Account: dev, Region: east, Allocation: e.ID, Interface: w.lease(stopped).ID})
	return string(w.snapshot())
}

// Restore refuses a snapshot that Apply cannot have made, because Apply would panic later.
func TestSnapshotsThatViolateInvariantsAreRefused(t *testing.T) {
	good := furnishedSnapshot(t)
	if _, err := Restore(strings.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	// line returns the snapshot good with a change: from is replaced by to in the first row of a
	// table that contains from and all marks.
	line := func(table, from, to string, marks ...string) string {
		t.Helper()
		lines := strings.SplitAfter(good, "\n")
		for n, row := range lines {
			has := strings.Contains(row, `"table":"`+table+`"`) && strings.Contains(row, from)
			for _, mark := range marks {
				has = has && strings.Contains(row, mark)
			}
			if has {
				lines[n] = strings.Replace(row, from, to, 1)
				return strings.Join(lines, "")
			}
		}
		t.Fatalf("no row of table %s contains %q and %q", table, from, marks)
		return ""
	}
	const active, idle, second, outside = `"State":0`, `"State":2`, `"DeviceIndex":1`, `"Outside":`
	for what, bad := range map[string]string{
		"a subnet without a range":                              line("subnet", `"CIDR":"10.0.1.0/28"`, `"CIDR":""`),
		"a subnet of a range too wide":                          line("subnet", `"CIDR":"10.0.1.0/28"`, `"CIDR":"10.0.0.0/8"`),
		"a subnet of no VPC":                                    line("subnet", `"VPC":"vpc-`, `"VPC":"vpc-x`, `10.0.1.0/28`),
		"a VPC whose network has another range":                 line("network", `"Prefix":"10.0.0.0/16"`, `"Prefix":"10.9.0.0/16"`),
		"a block that the network does not have":                line("vpc", `"VNI":`, `"Secondary":[{"Association":"vpc-cidr-assoc-1","CIDR":"10.1.0.0/16"}],"VNI":`),
		"a block of the network that the VPC does not have":     line("network", `"Prefix":"10.0.0.0/16"`, `"Prefix":"10.0.0.0/16","Blocks":["10.1.0.0/16"]`),
		"a subnet in no block of its VPC":                       line("subnet", `"CIDR":"10.0.1.0/28"`, `"CIDR":"10.1.1.0/28"`),
		"an interface of no subnet":                             line("interface", `"Subnet":"subnet-`, `"Subnet":"subnet-x`),
		"an interface outside its subnet":                       line("interface", `"Private":"10.0.1.`, `"Private":"10.0.9.`),
		"an interface of another instance":                      line("interface", `"Instance":"i-`, `"Instance":"i-x`, second),
		"two primary interfaces":                                line("interface", second, `"DeviceIndex":0`),
		"an attachment to nothing":                              line("interface", `"Instance":"i-`, `"Instance":"","Was":"`, second),
		"an idle interface at a node":                           line("interface", `"Node":""`, `"Node":"node1"`, idle),
		"an idle interface at a device":                         line("interface", active, idle, outside),
		"an active interface at no node":                        line("interface", `"Node":"node`, `"Node":"","Was":"`, active),
		"an epoch above the last serial":                        line("interface", `"Epoch":`, `"Epoch":9`, active),
		"an address of no interface":                            line("address", `"Interface":"eni-`, `"Interface":"eni-x`),
		"an instance without its interface":                     line("instance", `"Interface":"eni-`, `"Interface":"eni-x`),
		"an instance of EC2-Classic with an interface in a VPC": line("instance", `"VPC":"vpc-`, `"VPC":"","Was":"`),
		"a terminated instance with an interface":               line("instance", `"State":80`, `"State":48`),
	} {
		bad = dropWas(bad)
		if bad == good {
			t.Errorf("%s: the test changed nothing", what)
		}
		if _, err := Restore(strings.NewReader(bad)); err == nil {
			t.Errorf("%s: the snapshot was restored, want an error", what)
		} else if strings.Contains(err.Error(), "unknown field") || strings.Contains(err.Error(), "invalid character") {
			t.Errorf("%s: the test made invalid JSON: %v", what, err)
		}
	}
}

// dropWas removes the field Was, into which a replacement has put the rest of an old value.
func dropWas(s string) string {
	at := strings.Index(s, `,"Was":"`)
	if at < 0 {
		return s
	}
	end := strings.Index(s[at+8:], `"`)
	return s[:at] + s[at+8+end+1:]
}
