package ec2

// A PlacementGroup is a name that launches can give. AWS places the instances of a group close
// together or apart. Here a group decides nothing: it is stored and shown.
type PlacementGroup struct {
	ID         PlacementGroupID
	Account    AccountID
	Region     Region
	Name       string // unique in the account's region
	Strategy   string // "cluster", "spread" or "partition"
	Partitions int    `json:",omitempty"` // of a partition group, 1 to 7
	Level      string `json:",omitempty"` // of a spread group: "rack" or "host"
}

// InstanceOptions are what a launch asked for beside image, type and network. Nothing here acts on
// them, except CPU credits and the like being shown again. The zero value is EC2's default.
type InstanceOptions struct {
	PlacementGroup string `json:",omitempty"` // name of a PlacementGroup
	Partition      int    `json:",omitempty"` // of a partition group
	Tenancy        string `json:",omitempty"` // "dedicated"; "" is default
	Affinity       string `json:",omitempty"` // "host" or "default"

	Credits       string `json:",omitempty"` // "standard" or "unlimited"; "" is the default of the type
	Cores         int    `json:",omitempty"`
	ThreadsOfCore int    `json:",omitempty"`
	SEVSNP        string `json:",omitempty"` // "enabled" or "disabled"

	EBSOptimized bool `json:",omitempty"`
	Hibernation  bool `json:",omitempty"`
	Enclave      bool `json:",omitempty"`

	NoRecovery  bool   `json:",omitempty"` // maintenance option autoRecovery is "disabled", not "default"
	Reservation string `json:",omitempty"` // capacityReservationPreference: "open" or "none"; "" is open

	HostnameType string `json:",omitempty"` // "ip-name" or "resource-name"; "" is ip-name
	ARecord      bool   `json:",omitempty"` // enableResourceNameDnsARecord
	AAAARecord   bool   `json:",omitempty"` // enableResourceNameDnsAAAARecord
}
