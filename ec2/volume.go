package ec2

import "time"

// A Volume is an EBS volume of an account as far as the API shows it: a record. No node has a disk for it,
// and an instance's file system is in memory whatever its volumes are.
type Volume struct {
	ID      VolumeID
	Account AccountID
	Region  Region
	Zone    string
	Disk
	MultiAttach bool `json:",omitempty"` // may be attached to several instances
	Created     time.Time
	Attachments []VolumeAttachment  `json:",omitempty"` // one, unless MultiAttach
	Modified    *VolumeModification `json:",omitempty"` // the last one

	AutoEnableIO bool `json:",omitempty"` // an attribute that nothing here depends on

	ClientToken  string `json:",omitempty"`
	RequestShape string `json:",omitempty"` // digest of the request that came with ClientToken
}

// A Disk is what a request says about a volume. In a Volume, zero numbers mean that its type has no such
// number.
type Disk struct {
	Size       int    `json:",omitempty"` // GiB
	Type       string `json:",omitempty"` // "gp3"
	IOPS       int    `json:",omitempty"`
	Throughput int    `json:",omitempty"` // MiB/s
	Encrypted  bool   `json:",omitempty"`
	KMSKey     string `json:",omitempty"` // "": the account's own key
	Snapshot   string `json:",omitempty"` // "snap-…"
}

// A VolumeAttachment connects a volume with an instance.
type VolumeAttachment struct {
	Instance            InstanceID
	Device              string // "/dev/sdf"
	Since               time.Time
	DeleteOnTermination bool `json:",omitempty"`
}

// A VolumeModification is a change of a volume that is done.
type VolumeModification struct {
	Before      Disk
	MultiAttach bool `json:",omitempty"` // before the change
	At          time.Time
}
