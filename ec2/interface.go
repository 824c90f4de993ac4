package ec2

// interfaceRequests are of the interfaces of a VPC.
var interfaceRequests = []Request{}
