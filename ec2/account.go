package ec2

// Platform is what an account may launch into.
type Platform string

const (
	// Classic accounts have the region's flat network (supported-platforms "EC2,VPC").
	Classic Platform = "classic"
	// VPCOnly accounts have a default VPC in each region ("VPC").
	VPCOnly Platform = "vpc"
)

// An Account owns resources. Name is for people and configuration, "albert".
type Account struct {
	ID       AccountID
	Name     string
	Platform Platform
}
