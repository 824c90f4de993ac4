// Package oracle proves that the whole of a VPC decides about packets as AWS's guides say. It has tests only.
//
// An oracle (oracle_test.go) looks at every interface, route, entry of a network ACL, rule, prefix list and
// peering of the state, one after the other, for each packet (match_test.go). It was written from the EC2 User
// Guide, the Amazon VPC User Guide and the VPC Peering Guide, and shares no code with the switch. The tests
// compare it with two nodes (world_test.go), which have a plane, a switch and a tunnel each. Random requests
// (change_test.go) change the state in between, and random packets (probe_test.go) are sent. After each
// change, the tables that the planes have changed step by step decide as tables that are built from nothing
// (rebuilt_test.go).
package oracle
