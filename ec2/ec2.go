// Package ec2 has the values of the domain: accounts, security groups and rules, VPCs and subnets,
// instances and their interfaces, the nodes of a cluster, limits and errors. It imports the
// standard library alone, so that the data plane can use these types without the libraries of
// the control plane.
//
// A value that belongs to a State is shared by many goroutines. Nobody changes it in place: a
// change makes a copy.
//
// The structs are stored as JSON, in the Raft log and in snapshots. The name of a field is its
// key there, so a field that is renamed keeps its old key in a tag.
//
// Read Group, Rule and Source first, then Instance and Interface, then Network and VPC.
//
// The package decides nothing. Commands, the State and its Views are in ec2/state, the wire
// format of the API is in ec2/query, and firewall and switch enforce the rules.
package ec2
