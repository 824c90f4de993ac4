package state

import (
	"bytes"
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

// -update writes the files of the current version again. Files of earlier releases do not change.
var update = flag.Bool("update", false, "write testdata of the current version")

// firstSettings has the fields that the first release had.
var firstSettings = ec2.Settings{GroupsPerRegion: 500, RulesPerGroup: 100, InstancesPerRegion: 5000, Quarantine: time.Minute, TerminatedFor: time.Hour}

// samples returns one request of each type of classicRequests, with all fields of the first release
// set.
func samples() []Request {
	sel := GroupSelector{ID: "sg-455b6c31"}
	ids := []ec2.InstanceID{"i-cfd732a6"}
	return []Request{
		&Bootstrap{Seed: "seed", Settings: firstSettings},
		firstRequests()[2], firstRequests()[3],
		&PutNode{ec2.Node{ID: "node1", Zone: "us-east-1a"}},
		&CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "web servers"},
		&DeleteSecurityGroup{albert, east, sel},
		&RunInstances{
			Account: albert, Region: east, Image: "ami-eca54085", Type: "m1.small", KeyName: "gsg", Groups: []GroupSelector{sel, {Name: "web"}},
			UserData: []byte("#!/bin/sh"), MinCount: 1, MaxCount: 7, Zone: "us-east-1a", ClientToken: "token",
		},
		&TerminateInstances{albert, east, ids},
		&StopInstances{albert, east, ids},
		&StartInstances{albert, east, ids},
		&ReportInstance{"i-cfd732a6", 12, ec2.Running, "Server.InternalError: no image"},
		&Sweep{},
		&CreateKeyPair{KeyPair: ec2.KeyPair{Account: albert, Region: east, Name: "gsg", Fingerprint: "aa:bb", PublicKey: "ssh-rsa AAAA"}},
		&DeleteKeyPair{albert, east, "gsg"},
		&Batch{[]Request{&Bootstrap{Seed: "seed"}, &Sweep{}}},
		&CreateJoinToken{"t1", secretHash, ec2.NonVoter, epoch0.Add(time.Hour)},
		&AdmitNode{"t1", secretHash, ec2.Node{ID: "node2", Zone: "us-east-1b", Role: ec2.NonVoter, Address: "192.0.2.12:7400", PublicKey: []byte("key")}},
		&FenceNode{Node: "node2", GossipKey: gossipKey},
		&RemoveNode{Node: "node2", GossipKey: gossipKey},
	}
}

// later returns requests with fields that the first release did not have.
func later() map[string]Request {
	return map[string]Request{
		"Bootstrap-gossip":        &Bootstrap{Seed: "seed", GossipKey: gossipKey},
		"CreateSecurityGroup-vpc": &CreateSecurityGroup{albert, east, "web", "web servers", "vpc-0a1b2c3d4e5f60718", map[string]string{"Name": "x"}},
		"PutNode-peer":            &PutNode{ec2.Node{ID: "node1", Zone: "us-east-1a", Role: ec2.Voter, Address: "192.0.2.11:7400", PublicKey: []byte("key")}},
		"Sweep-confirmed":         &Sweep{Confirmed: map[ec2.NodeID]uint64{"node1": 12, "node2": 11}},
		"RunInstances-template":   sampleLaunch(),
		"Sweep-nobody":            &Sweep{Confirmed: map[ec2.NodeID]uint64{}},
	}
}

func allSamples() map[string]Request {
	all := later()
	maps.Copy(all, laterInterfaces())
	maps.Copy(all, laterGroups())
	maps.Copy(all, accountSamples())
	maps.Copy(all, rotationSamples())
	maps.Copy(all, volumeSamples())
	maps.Copy(all, natSamples())
	for _, req := range slices.Concat(samples(), vpcSamples(), groupSamples(), interfaceSamples(), operatorSamples(), regionSamples(), launchSamples(), prefixListSamples()) {
		all[reflect.TypeOf(req).Elem().Name()] = req
	}
	return all
}

// A command that any release wrote is decoded to the request that was encoded.
func TestCommandsOfEveryVersionAreRead(t *testing.T) {
	all := allSamples()
	for name, req := range all {
		path := filepath.Join("testdata", "commands", "v1-"+name+".json")
		cmd := Command{Time: epoch0, Request: req}
		data, err := EncodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if own, err := DecodeCommand(data); err != nil || !reflect.DeepEqual(own.Request, req) {
			t.Errorf("%s was decoded as %+v (%v), want %+v", name, own.Request, err, req)
		}
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeCommand(stored)
		if err != nil {
			t.Errorf("decode %s: %v", path, err)
			continue
		}
		if again, err := EncodeCommand(got); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s: encoded again it is\n%s, want\n%s", path, again, data)
		}
		if diff := cmp.Diff(req, got.Request, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s: the decoded request differs:\n%s", path, diff)
		}
	}
	for name := range requests {
		if all[name] == nil {
			t.Errorf("the test has no sample of request %s", name)
		}
	}
}

func TestUnknownCommandsAreErrors(t *testing.T) {
	for _, data := range []string{
		``, `{}`, `null`, `[]`, `{"v":1}`,
		`{"v":1,"type":"FromTheFuture","time":"2026-01-02T03:04:05Z","body":{}}`,
		`{"v":2,"type":"Sweep","time":"2026-01-02T03:04:05Z","body":{}}`,
		`{"v":1,"type":"Sweep","time":"2026-01-02T03:04:05Z","body":{"Also":1}}`,
		`{"v":1,"type":"Sweep","time":"2026-01-02T03:04:05Z","body":{},"signed":true}`,
		`{"v":1,"type":"Sweep","time":"2026-01-02T03:04:05Z","body":{}} {}`,
		`{"v":1,"type":"Sweep","time":"2026-01-02T03:04:05Z"}`,
		`{"v":1,"type":"Batch","time":"2026-01-02T03:04:05Z","body":[{"type":"Batch","body":[]}]}`,
		`{"v":1,"type":"Batch","time":"2026-01-02T03:04:05Z","body":[{"type":"FromTheFuture","body":{}}]}`,
	} {
		if cmd, err := DecodeCommand([]byte(data)); err == nil {
			t.Errorf("%s was decoded as %+v, want an error", data, cmd.Request)
		}
	}
}
