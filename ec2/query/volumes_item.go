package query

import (
	"crypto/sha256"
	"strconv"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/region"
)

type volumeItem struct {
	ID          ec2.VolumeID           `wire:"volumeId"`
	Size        int                    `wire:"size"`
	Snapshot    wire.Present           `wire:"snapshotId"`
	Zone        string                 `wire:"availabilityZone"`
	ZoneID      string                 `wire:"availabilityZoneId"`
	State       string                 `wire:"status"`
	Created     time.Time              `wire:"createTime"`
	Attachments []volumeAttachmentItem `wire:"attachmentSet"`
	Tags        []tag                  `wire:"tagSet"`
	Type        string                 `wire:"volumeType"`
	IOPS        *int                   `wire:"iops"`
	Throughput  *int                   `wire:"throughput"`
	Encrypted   bool                   `wire:"encrypted"`
	KMSKey      string                 `wire:"kmsKeyId"`
	MultiAttach bool                   `wire:"multiAttachEnabled"`
	Restored    bool                   `wire:"fastRestored"`
	Operator    operatorItem           `wire:"operator"`
}

type volumeAttachmentItem struct {
	Volume              ec2.VolumeID   `wire:"volumeId"`
	Instance            ec2.InstanceID `wire:"instanceId"`
	Device              string         `wire:"device"`
	State               string         `wire:"status"`
	Since               time.Time      `wire:"attachTime"`
	DeleteOnTermination bool           `wire:"deleteOnTermination"`
}

func newVolumeAttachmentItem(v *ec2.Volume, a ec2.VolumeAttachment) volumeAttachmentItem {
	return volumeAttachmentItem{v.ID, a.Instance, a.Device, "attached", a.Since, a.DeleteOnTermination}
}

func (c *call) newVolumeItem(v *ec2.Volume) volumeItem {
	item := volumeItem{
		ID: v.ID, Size: v.Size, Snapshot: wire.Present(v.Snapshot), Zone: v.Zone, ZoneID: region.ZoneID(v.Zone), State: "available", Created: v.Created, Tags: c.tags(string(v.ID)),
		Type: v.Type, IOPS: iopsOf(v.Disk), Encrypted: v.Encrypted, KMSKey: c.kmsKey(v.Disk), MultiAttach: v.MultiAttach,
	}
	if v.Throughput != 0 {
		item.Throughput = &v.Throughput
	}
	for _, a := range v.Attachments {
		item.State = "in-use"
		item.Attachments = append(item.Attachments, newVolumeAttachmentItem(v, a))
	}
	return item
}

// iopsOf returns the IOPS that a volume shows: those that were provisioned or, for gp2, those that follow
// from the size (EBS User Guide, "General Purpose SSD volumes").
func iopsOf(d ec2.Disk) *int {
	switch {
	case d.IOPS != 0:
		return &d.IOPS
	case d.Type == "gp2":
		return new(min(max(100, 3*d.Size), 16_000))
	}
	return nil
}

// kmsKey returns the ARN of the key of an encrypted volume. Without a key it is the one that AWS manages
// for the account.
func (c *call) kmsKey(d ec2.Disk) string {
	if !d.Encrypted || strings.HasPrefix(d.KMSKey, "arn:") {
		return d.KMSKey
	}
	id := d.KMSKey
	if id == "" || strings.HasPrefix(id, "alias/") {
		sum := sha256.Sum256([]byte(string(c.region) + "/" + string(c.account) + "/" + id))
		id = formatUUID(sum[:16], 4)
	}
	return "arn:aws:kms:" + string(c.region) + ":" + string(c.account) + ":key/" + id
}

// volumeListing has the filters of EC2's API Reference, "DescribeVolumes".
var volumeListing = func() listing[volumeItem] {
	each := func(value func(volumeAttachmentItem) string) func(volumeItem) []string {
		return func(v volumeItem) []string { return valuesOf(v.Attachments, value) }
	}
	return listing[volumeItem]{
		kind: "vol",
		id:   func(v volumeItem) string { return string(v.ID) },
		filters: filterable[volumeItem]{
			"attachment.attach-time":           each(func(a volumeAttachmentItem) string { return wire.FormatTime(a.Since) }),
			"attachment.delete-on-termination": each(func(a volumeAttachmentItem) string { return strconv.FormatBool(a.DeleteOnTermination) }),
			"attachment.device":                each(func(a volumeAttachmentItem) string { return a.Device }),
			"attachment.instance-id":           each(func(a volumeAttachmentItem) string { return string(a.Instance) }),
			"attachment.status":                each(func(a volumeAttachmentItem) string { return a.State }),
			"availability-zone":                func(v volumeItem) []string { return nonEmpty(v.Zone) },
			"availability-zone-id":             func(v volumeItem) []string { return nonEmpty(v.ZoneID) },
			"create-time":                      func(v volumeItem) []string { return nonEmpty(wire.FormatTime(v.Created)) },
			"encrypted":                        func(v volumeItem) []string { return boolean(v.Encrypted) },
			"fast-restored":                    func(volumeItem) []string { return boolean(false) },
			"multi-attach-enabled":             func(v volumeItem) []string { return boolean(v.MultiAttach) },
			"operator.managed":                 func(volumeItem) []string { return boolean(false) },
			"operator.principal":               never[volumeItem],
			"size":                             func(v volumeItem) []string { return nonEmpty(strconv.Itoa(v.Size)) },
			"snapshot-id":                      func(v volumeItem) []string { return nonEmpty(v.Snapshot) },
			"status":                           func(v volumeItem) []string { return nonEmpty(v.State) },
			"volume-id":                        func(v volumeItem) []string { return nonEmpty(string(v.ID)) },
			"volume-type":                      func(v volumeItem) []string { return nonEmpty(v.Type) },
		},
	}
}()

// A volumeStatusItem shows a volume that works.
type volumeStatusItem struct {
	ID      ec2.VolumeID     `wire:"volumeId"`
	Zone    string           `wire:"availabilityZone"`
	ZoneID  string           `wire:"availabilityZoneId"`
	Status  volumeStatusInfo `wire:"volumeStatus"`
	Events  []tag            `wire:"eventsSet"`
	Actions []tag            `wire:"actionsSet"`
}

type volumeStatusInfo struct {
	Status  string               `wire:"status"`
	Details []volumeStatusDetail `wire:"details"`
}

type volumeStatusDetail struct {
	Name   string `wire:"name"`
	Status string `wire:"status"`
}

func newVolumeStatusItem(v *ec2.Volume) volumeStatusItem {
	performance := "not-applicable"
	if v.IOPS != 0 {
		performance = "normal"
	}
	return volumeStatusItem{
		ID: v.ID, Zone: v.Zone, ZoneID: region.ZoneID(v.Zone),
		Status: volumeStatusInfo{"ok", []volumeStatusDetail{{"io-enabled", "passed"}, {"io-performance", performance}}},
	}
}

// volumeStatusListing has the filters of EC2's API Reference, "DescribeVolumeStatus".
var volumeStatusListing = func() listing[volumeStatusItem] {
	details := func(value func(volumeStatusDetail) string) func(volumeStatusItem) []string {
		return func(v volumeStatusItem) []string { return valuesOf(v.Status.Details, value) }
	}
	l := listing[volumeStatusItem]{
		kind: "vol",
		id:   func(v volumeStatusItem) string { return string(v.ID) },
		filters: filterable[volumeStatusItem]{
			"availability-zone":            func(v volumeStatusItem) []string { return nonEmpty(v.Zone) },
			"volume-status.details-name":   details(func(d volumeStatusDetail) string { return d.Name }),
			"volume-status.details-status": details(func(d volumeStatusDetail) string { return d.Status }),
			"volume-status.status":         func(v volumeStatusItem) []string { return nonEmpty(v.Status.Status) },
		},
	}
	for _, name := range []string{
		"action.code", "action.description", "action.event-id", "event.description", "event.event-id", "event.event-type", "event.not-after", "event.not-before",
	} {
		l.filters[name] = never[volumeStatusItem]
	}
	return l
}()

// A volumeModificationItem shows a change of a volume. Changes are completed at once.
type volumeModificationItem struct {
	ID                  ec2.VolumeID `wire:"volumeId"`
	State               string       `wire:"modificationState"`
	TargetSize          int          `wire:"targetSize"`
	TargetIOPS          *int         `wire:"targetIops"`
	TargetType          string       `wire:"targetVolumeType"`
	TargetThroughput    *int         `wire:"targetThroughput"`
	TargetMultiAttach   bool         `wire:"targetMultiAttachEnabled"`
	OriginalSize        int          `wire:"originalSize"`
	OriginalIOPS        *int         `wire:"originalIops"`
	OriginalType        string       `wire:"originalVolumeType"`
	OriginalThroughput  *int         `wire:"originalThroughput"`
	OriginalMultiAttach bool         `wire:"originalMultiAttachEnabled"`
	Progress            int          `wire:"progress"`
	Start               time.Time    `wire:"startTime"`
	End                 time.Time    `wire:"endTime"`
}

func newVolumeModificationItem(v *ec2.Volume) volumeModificationItem {
	m := v.Modified
	item := volumeModificationItem{
		ID: v.ID, State: "completed", Progress: 100, Start: m.At, End: m.At,
		TargetSize: v.Size, TargetIOPS: iopsOf(v.Disk), TargetType: v.Type, TargetMultiAttach: v.MultiAttach,
		OriginalSize: m.Before.Size, OriginalIOPS: iopsOf(m.Before), OriginalType: m.Before.Type, OriginalMultiAttach: m.MultiAttach,
	}
	if v.Throughput != 0 {
		item.TargetThroughput = &v.Throughput
	}
	if m.Before.Throughput != 0 {
		item.OriginalThroughput = &m.Before.Throughput
	}
	return item
}

// volumeModificationListing has the filters of EC2's API Reference, "DescribeVolumesModifications".
var volumeModificationListing = listing[volumeModificationItem]{
	kind: "vol",
	id:   func(m volumeModificationItem) string { return string(m.ID) },
	filters: filterable[volumeModificationItem]{
		"modification-state":         func(m volumeModificationItem) []string { return nonEmpty(m.State) },
		"original-iops":              func(m volumeModificationItem) []string { return nonEmpty(strconv.Itoa(deref(m.OriginalIOPS))) },
		"original-size":              func(m volumeModificationItem) []string { return nonEmpty(strconv.Itoa(m.OriginalSize)) },
		"original-volume-type":       func(m volumeModificationItem) []string { return nonEmpty(m.OriginalType) },
		"originalMultiAttachEnabled": func(m volumeModificationItem) []string { return boolean(m.OriginalMultiAttach) },
		"start-time":                 func(m volumeModificationItem) []string { return nonEmpty(wire.FormatTime(m.Start)) },
		"target-iops":                func(m volumeModificationItem) []string { return nonEmpty(strconv.Itoa(deref(m.TargetIOPS))) },
		"target-size":                func(m volumeModificationItem) []string { return nonEmpty(strconv.Itoa(m.TargetSize)) },
		"target-volume-type":         func(m volumeModificationItem) []string { return nonEmpty(m.TargetType) },
		"targetMultiAttachEnabled":   func(m volumeModificationItem) []string { return boolean(m.TargetMultiAttach) },
		"volume-id":                  func(m volumeModificationItem) []string { return nonEmpty(string(m.ID)) },
	},
}
