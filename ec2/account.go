package ec2

// Platform says whether an account launches instances into EC2-Classic or into VPCs.
type Platform string

const (
	// Classic accounts have the region's flat network (supported-platforms "EC2,VPC").
	Classic Platform = "classic"
	// VPCOnly accounts have a default VPC in each region ("VPC").
	VPCOnly Platform = "vpc"
)

// An Account owns resources. Name is for operators and configuration files: "albert".
type Account struct {
	ID       AccountID
	Name     string
	Platform Platform
	Regions  []Region `json:",omitempty"` // that it has used, apart from the one that the cluster began with; sorted
}
