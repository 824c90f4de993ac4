package ec2

// An InternetGateway is a way out of the VPC that it is attached to.
type InternetGateway struct {
	ID      GatewayID
	Account AccountID
	Region  Region
	VPC     VPCID // "" while it is detached
}
