package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"palisade/ec2"
)

// A Command is one entry of the Raft log: a request, and the time at which the leader took it.
type Command struct {
	Time    time.Time // stamped by the leader
	Request Request
	Audit   *ec2.Audit // nil if a node proposed the command by itself

	From      ec2.NodeID // the node that handed the command to the leader, which sets it; "" in a command of an earlier release
	Signature *Signature // of the user's request that the leader made the command from; nil if there is none

	unchained bool // the log entry is of a release that did not chain audit records
}

// A Request is a change that a caller asks for. State.Apply checks it and carries it out. The
// log stores its exported fields as JSON, under the name of its type.
type Request interface {
	apply(t *tx) (Result, error)
}

// A Result has the rows that a request made or changed. The comment of each request names the
// fields that it sets. The rows are shared with the State and must not be changed.
type Result struct {
	Group     *ec2.Group
	Rules     []ec2.Rule             // added or removed, in the order of the request
	Unknown   []RuleSpec             // named by RevokeRules, but not in the group
	Instances []Change[ec2.Instance] // in the order of the request
	KeyPair   *ec2.KeyPair
	Interface *ec2.Interface
	Addresses []netip.Addr // private addresses that Interface got
	Node      *ec2.Node

	VPC         *ec2.VPC
	Block       ec2.VPCBlock // that VPC got or lost
	Subnet      *ec2.Subnet
	Gateway     *ec2.InternetGateway
	NAT         *ec2.NATGateway
	RouteTable  *ec2.RouteTable
	ACL         *ec2.NetworkACL
	Association ec2.AssociationID
	Elastic     *ec2.ElasticAddress

	Template        *ec2.LaunchTemplate
	TemplateVersion *ec2.LaunchTemplateVersion
	Versions        []int // of Template
	Placement       *ec2.PlacementGroup
	DHCP            *ec2.DHCPOptions
	PrefixList      *ec2.PrefixList
	Volume          Change[ec2.Volume]
	Peering         *ec2.VPCPeering
}

// A Change is a row before and after. Before is nil for a new row, After for a deleted one.
type Change[T any] struct {
	Before, After *T
}

// requests has the type of every request that a log may contain, by name. A name never gets another
// meaning. Each list is in the file of its requests, except classicRequests.
var requests = typesByName(slices.Concat(classicRequests, vpcRequests, aclRequests, peeringRequests, prefixListRequests, groupRequests, interfaceRequests, tagRequests, volumeRequests, accountRequests, operatorRequests, regionRequests, rotationRequests, launchRequests, natRequests)...)

// classicRequests are the requests of EC2-Classic, nodes and the cluster.
var classicRequests = []Request{
	&Batch{},
	&Bootstrap{}, &CreateAccount{}, &PutNetwork{}, &PutNode{},
	&CreateSecurityGroup{}, &DeleteSecurityGroup{},
	&RunInstances{}, &TerminateInstances{}, &StopInstances{}, &StartInstances{}, &RebootInstances{}, &ReportInstance{},
	&Sweep{},
	&CreateKeyPair{}, &DeleteKeyPair{},
	&CreateJoinToken{}, &AdmitNode{}, &FenceNode{}, &RemoveNode{},
}

func typesByName(all ...Request) map[string]reflect.Type {
	m := make(map[string]reflect.Type)
	for _, r := range all {
		t := reflect.TypeOf(r).Elem()
		m[t.Name()] = t
	}
	return m
}

// commandVersion is the version that EncodeCommand writes. DecodeCommand reads every version
// that was ever written; testdata/commands has an example of each.
const commandVersion = 1

type envelope struct {
	Version int             `json:"v"`
	Type    string          `json:"type"`
	Time    time.Time       `json:"time"`
	Body    json.RawMessage `json:"body"`
	Audit   *ec2.Audit      `json:"audit,omitempty"`
	Chained bool            `json:"chained,omitempty"` // the audit record belongs to the ring of its account

	From      ec2.NodeID `json:"from,omitempty"`
	Signature *Signature `json:"signature,omitempty"`
}

// EncodeCommand returns the log entry of a command.
func EncodeCommand(cmd Command) ([]byte, error) {
	name, body, err := encodeRequest(cmd.Request)
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Version: commandVersion, Type: name, Time: cmd.Time.UTC(), Body: body, Audit: cmd.Audit, From: cmd.From, Signature: cmd.Signature, Chained: cmd.Audit != nil && !cmd.unchained})
}

// DecodeCommand reads a log entry. An unknown type, version or field is an error, and the node
// must stop: if it skipped the entry, its State would differ from that of its peers.
func DecodeCommand(data []byte) (Command, error) {
	var e envelope
	if err := decodeStrict(data, &e); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	if e.Version != commandVersion {
		return Command{}, fmt.Errorf("decode command: version %d of %q is not known to this release", e.Version, e.Type)
	}
	req, err := decodeRequest(e.Type, e.Body)
	if err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	return Command{Time: e.Time, Request: req, Audit: e.Audit, From: e.From, Signature: e.Signature, unchained: e.Audit != nil && !e.Chained}, nil
}

func encodeRequest(r Request) (string, json.RawMessage, error) {
	if r == nil || reflect.ValueOf(r).Kind() != reflect.Pointer {
		return "", nil, fmt.Errorf("encode command: %T is not a pointer to a request", r)
	}
	name := reflect.TypeOf(r).Elem().Name()
	if requests[name] != reflect.TypeOf(r).Elem() {
		return "", nil, fmt.Errorf("encode command: %T is not in the list of requests", r)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return "", nil, fmt.Errorf("encode %s: %w", name, err)
	}
	return name, body, nil
}

func decodeRequest(name string, body json.RawMessage) (Request, error) {
	t, ok := requests[name]
	if !ok {
		return nil, fmt.Errorf("type %q is not known to this release", name)
	}
	v := reflect.New(t)
	if err := decodeStrict(body, v.Interface()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v.Interface().(Request), nil
}

func decodeStrict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return fmt.Errorf("%d bytes with more than one JSON value", len(data))
	}
	return nil
}

// A Batch carries out several requests, or none if one of them is refused. The first entry in the
// log of a cluster is a Batch. Its Result is the Result of the last request.
type Batch struct {
	Requests []Request
}

func (b *Batch) apply(t *tx) (result Result, err error) {
	for _, r := range b.Requests {
		if result, err = r.apply(t); err != nil {
			return Result{}, err
		}
	}
	return result, nil
}

type batched struct {
	Type string          `json:"type"`
	Body json.RawMessage `json:"body"`
}

// MarshalJSON writes each request with the name of its type.
func (b *Batch) MarshalJSON() ([]byte, error) {
	list := make([]batched, 0, len(b.Requests))
	for _, r := range b.Requests {
		name, body, err := encodeRequest(r)
		if err != nil {
			return nil, err
		}
		list = append(list, batched{name, body})
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads what MarshalJSON wrote. A Batch inside a Batch is an error, so a log entry
// cannot nest deeply.
func (b *Batch) UnmarshalJSON(data []byte) error {
	var list []batched
	if err := decodeStrict(data, &list); err != nil {
		return err
	}
	for _, e := range list {
		if e.Type == "Batch" {
			return fmt.Errorf("a batch inside a batch")
		}
		r, err := decodeRequest(e.Type, e.Body)
		if err != nil {
			return err
		}
		b.Requests = append(b.Requests, r)
	}
	return nil
}
