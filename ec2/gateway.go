package ec2

// An InternetGateway connects the VPC that it is attached to with the internet.
type InternetGateway struct {
	ID      GatewayID
	Account AccountID
	Region  Region
	VPC     VPCID // "" while it is detached
}
