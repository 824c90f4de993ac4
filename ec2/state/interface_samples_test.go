package state

import (
	"net/netip"

	"palisade/ec2"
)

// interfaceSamples returns one request of each type of interfaceRequests, with all fields set.
func interfaceSamples() []Request {
	const eni, i = ec2.InterfaceID("eni-0a1b2c3d4e5f60718"), ec2.InstanceID("i-0a1b2c3d4e5f60718")
	return []Request{
		&CreateNetworkInterface{albert, east, sampleSpec(), "token", map[string]string{"Name": "web"}},
		&DeleteNetworkInterface{albert, east, eni},
		&AttachNetworkInterface{albert, east, eni, i, 1},
		&DetachNetworkInterface{albert, east, "eni-attach-0a1b2c3d", true},
		&ReportInterface{eni, 12},
		&ModifyNetworkInterface{albert, east, eni, new("web"), []ec2.GroupID{"sg-0a1b2c3d"}, new(true), "eni-attach-0a1b2c3d", new(false)},
		&AssignPrivateAddresses{albert, east, eni, sampleSpec().Secondary, 2, true},
		&UnassignPrivateAddresses{albert, east, eni, sampleSpec().Secondary},
		&RegisterInterface{albert, east, "node1", ec2.ExternalDevice{Namespace: "vm7", Device: "eth0"}, eni, sampleSpec(), new(true), map[string]string{"Name": "vm7"}},
		&UnregisterInterface{albert, east, eni, true},
		&RebootInstances{albert, east, []ec2.InstanceID{i}},
		&ModifyInstance{albert, east, i, []ec2.GroupID{"sg-0a1b2c3d"}, new(true), new("m1.large"), new([]byte("#!/bin/sh")), new(true), new(true), new(true), nil},
	}
}

func sampleSpec() InterfaceSpec {
	return InterfaceSpec{
		Subnet: "subnet-0a1b2c3d", Groups: []ec2.GroupID{"sg-0a1b2c3d"}, Description: "web",
		Private: netip.MustParseAddr("10.0.1.10"), Secondary: []netip.Addr{netip.MustParseAddr("10.0.1.11")}, SecondaryCount: 3,
	}
}

// laterInterfaces returns requests with fields for VPCs that the first release did not have.
func laterInterfaces() map[string]Request {
	return map[string]Request{
		"RunInstances-vpc": &RunInstances{
			Account: albert, Region: east, Image: "ami-eca54085", Type: "m1.small", MinCount: 1, MaxCount: 1,
			Tags: map[string]string{"Name": "web"}, TerminationProtected: true, StopProtected: true, TerminateOnShutdown: true,
			Metadata: &ec2.MetadataOptions{Endpoint: "disabled", Tokens: "required", Hops: 2, Tags: "disabled"},
			Subnet:   "subnet-0a1b2c3d", Private: sampleSpec().Private, Secondary: sampleSpec().Secondary, SecondaryCount: 1,
			Interfaces: []LaunchInterface{
				{Interface: "eni-0a1b2c3d"},
				{DeviceIndex: 1, Spec: sampleSpec(), Public: new(true), DeleteOnTermination: new(false)},
			},
			InterfaceTags: map[string]string{"Name": "nic"},
		},
	}
}
