package query

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/internal/refusal"
)

// A CloudTrailEvent is an audit record in the form of AWS CloudTrail (CloudTrail User
// Guide, "CloudTrail record contents for management events").
type CloudTrailEvent struct {
	Version         string         `json:"eventVersion"`
	Identity        cloudTrailUser `json:"userIdentity"`
	Time            string         `json:"eventTime"`
	Source          string         `json:"eventSource"`
	Name            string         `json:"eventName"`
	Region          ec2.Region     `json:"awsRegion"`
	SourceIPAddress string         `json:"sourceIPAddress"`
	UserAgent       string         `json:"userAgent"`
	ErrorCode       string         `json:"errorCode,omitempty"`
	ErrorMessage    string         `json:"errorMessage,omitempty"`
	Parameters      any            `json:"requestParameters"`
	Answer          any            `json:"responseElements"` // null, because answers are not recorded
	RequestID       string         `json:"requestID"`
	EventID         string         `json:"eventID"`
	ReadOnly        bool           `json:"readOnly"`
	Type            string         `json:"eventType"`
	Management      bool           `json:"managementEvent"`
	Recipient       ec2.AccountID  `json:"recipientAccountId"`
	Category        string         `json:"eventCategory"`
}

type cloudTrailUser struct {
	Type      string        `json:"type"`
	Principal string        `json:"principalId,omitempty"`
	ARN       string        `json:"arn,omitempty"`
	Account   ec2.AccountID `json:"accountId,omitempty"`
	AccessKey string        `json:"accessKeyId,omitempty"`
	InvokedBy string        `json:"invokedBy,omitempty"`
}

// NewCloudTrailEvent returns the event of an audit record. The id of the event depends only
// on the seed of the cluster and the number of the record, so every node returns the same
// event at any time.
func NewCloudTrailEvent(seed string, r *ec2.AuditRecord) CloudTrailEvent {
	e := CloudTrailEvent{
		Version:         "1.08",
		Identity:        cloudTrailUser{Type: "Root", Principal: string(r.Account), ARN: rootARN(r.Account), Account: r.Account, AccessKey: r.AccessKey},
		Time:            r.Time.UTC().Format(time.RFC3339),
		Source:          "ec2.amazonaws.com",
		Name:            r.Action,
		Region:          r.Region,
		SourceIPAddress: r.Source,
		UserAgent:       r.UserAgent,
		ErrorMessage:    r.Message,
		RequestID:       r.RequestID,
		EventID:         eventID(seed, r.Number),
		Type:            "AwsApiCall",
		Management:      true,
		Recipient:       r.Account,
		Category:        "Management",
	}
	if len(r.Parameters) > 0 {
		e.Parameters = requestParameters(r.Parameters)
	}
	if r.Error != "" {
		e.ErrorCode = "Client." + r.Error
	}
	if r.Account == "" { // a change by an operator of the cluster
		e.Identity = cloudTrailUser{Type: "AWSService", InvokedBy: "palisade"}
		e.Source, e.Type = "palisade", "AwsServiceEvent"
	}
	return e
}

// NewRefusedEvent returns the event of a call that a node refused. The id of the event depends only
// on the seed of the cluster, the node, and the number that the node gave the call.
func NewRefusedEvent(seed string, node ec2.NodeID, r *refusal.Refusal) CloudTrailEvent {
	e := NewCloudTrailEvent(seed, &ec2.AuditRecord{Number: r.Number, Time: r.Time, Audit: r.Audit, Error: r.Error, Message: r.Message})
	e.EventID = uuidOf("refused call\x00" + seed + "\x00" + string(node) + "\x00" + strconv.FormatUint(r.Number, 10))
	return e
}

// eventID derives a UUID from the seed and a record's number.
func eventID(seed string, number uint64) string {
	return uuidOf("audit record\x00" + seed + "\x00" + strconv.FormatUint(number, 10))
}

// uuidOf derives a UUID from a text. It is of version 8, whose content each implementation
// defines (RFC 9562 §5.8).
func uuidOf(text string) string {
	b := sha256.Sum256([]byte(text))
	return formatUUID(b[:16], 8)
}

// requestParameters nests parameters such as "IpPermissions.1.FromPort" as CloudTrail does:
// names begin with a lower-case letter, and a numbered list is a list named items.
func requestParameters(flat map[string]string) any {
	root := new(wire.Param)
	for _, name := range slices.Sorted(maps.Keys(flat)) {
		if !root.Set(name, flat[name]) {
			root.Children[name] = &wire.Param{Value: flat[name]}
		}
	}
	return tree(root)
}

func tree(p *wire.Param) any {
	if len(p.Children) == 0 {
		return p.Value
	}
	numbers := make(map[int]*wire.Param)
	fields := make(map[string]any)
	for name, c := range p.Children {
		if n, err := strconv.Atoi(name); err == nil {
			numbers[n] = c
			continue
		}
		if name != "" {
			name = strings.ToLower(name[:1]) + name[1:]
		}
		fields[name] = tree(c)
	}
	if len(numbers) > 0 {
		var items []any
		for _, n := range slices.Sorted(maps.Keys(numbers)) {
			items = append(items, tree(numbers[n]))
		}
		fields["items"] = items
	}
	return fields
}
