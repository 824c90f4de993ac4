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

// A Command is one entry of the replicated log: a request, and when the leader took it.
type Command struct {
	Time    time.Time // stamped by the leader; a request never reads a clock
	Request Request
	Audit   *ec2.Audit // nil: a node's own doing
}

// A Request is one decision, checked and carried out by State.Apply. Its exported
// fields are its wire form in the log, and its type's name is its name there.
type Request interface {
	apply(t *tx) (Result, error)
}

// A Result is what a request made; each request documents the fields it sets. What it
// points to is shared with the State and never changed.
type Result struct {
	Group     *ec2.Group
	Rules     []ec2.Rule             // added or removed, in order
	Unknown   []RuleSpec             // asked to be revoked, but not there
	Instances []Change[ec2.Instance] // in order of the request
	KeyPair   *ec2.KeyPair
	Interface *ec2.Interface
	Addresses []netip.Addr // given to Interface by the request
	Node      *ec2.Node

	VPC         *ec2.VPC
	Subnet      *ec2.Subnet
	Gateway     *ec2.InternetGateway
	RouteTable  *ec2.RouteTable
	Association ec2.AssociationID
	Elastic     *ec2.ElasticAddress
}

// A Change is one value before and after; a nil Before is new, a nil After is gone.
type Change[T any] struct {
	Before, After *T
}

// requests are all that a log may hold. A name is never reused for something else. Those
// of the VPC platform are listed beside what they do.
var requests = typesByName(slices.Concat(classicRequests, vpcRequests, groupRequests, interfaceRequests, tagRequests, accountRequests)...)

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

// commandVersion is what EncodeCommand writes. DecodeCommand reads every version that
// was ever written; testdata/commands holds one of each.
const commandVersion = 1

type envelope struct {
	Version int             `json:"v"`
	Type    string          `json:"type"`
	Time    time.Time       `json:"time"`
	Body    json.RawMessage `json:"body"`
	Audit   *ec2.Audit      `json:"audit,omitempty"`
}

// EncodeCommand writes a command for the log.
func EncodeCommand(cmd Command) ([]byte, error) {
	name, body, err := encodeRequest(cmd.Request)
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Version: commandVersion, Type: name, Time: cmd.Time.UTC(), Body: body, Audit: cmd.Audit})
}

// StampCommand sets the time of an encoded command. It does not encode the request again.
func StampCommand(data []byte, at time.Time) ([]byte, error) {
	var e envelope
	if err := decodeStrict(data, &e); err != nil {
		return nil, fmt.Errorf("stamp command: %w", err)
	}
	e.Time = at.UTC()
	return json.Marshal(e)
}

// DecodeCommand reads what EncodeCommand wrote. A type, a version or a field it does
// not know is an error: a node that skipped what it cannot understand would hold
// another State than its peers, so it must stop instead.
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
	return Command{Time: e.Time, Request: req, Audit: e.Audit}, nil
}

func encodeRequest(r Request) (string, json.RawMessage, error) {
	if r == nil || reflect.ValueOf(r).Kind() != reflect.Pointer {
		return "", nil, fmt.Errorf("encode command: %T is no pointer to a request", r)
	}
	name := reflect.TypeOf(r).Elem().Name()
	if requests[name] != reflect.TypeOf(r).Elem() {
		return "", nil, fmt.Errorf("encode command: %T is not listed", r)
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
		return fmt.Errorf("%d bytes, and more after the first value", len(data))
	}
	return nil
}

// A Batch is several requests that happen together or not at all; a cluster's first
// entry is one. Its Result is that of the last request.
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

// MarshalJSON writes each request with its name.
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

// UnmarshalJSON reads what MarshalJSON wrote. Batches do not nest: the depth of what a
// log can hold is bounded.
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
