// Package ec2 is the domain: accounts, security groups, rules, networks, key pairs,
// instances and their interfaces, the nodes that carry them, and the one state machine
// that changes them.
//
// It is pure. State.Apply takes a Command and nothing else: no clock, no randomness, no
// I/O, no map order, so every node that applies the same log holds the same State. The
// leader stamps time into a command; addresses and ids are chosen in Apply.
//
// Read Group, Rule and Interface first, then State.Apply, then View, which is what the
// data plane and the API read: one index's values, immutable, with what changed.
//
// It is not a wire format (ec2/query is), not replication (cluster is), and it enforces
// nothing (firewall and switch do).
package ec2
