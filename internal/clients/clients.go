// Package clients has no code: it is the proof by real clients. Its tests bring up a lab
// of the real binary and drive it by what people use, unmodified, and by nothing else:
// the aws command line of two generations, boto3, the SDKs for Go and JavaScript, and
// Terraform. What they are told to change, packets must obey: the tests send some, between
// instances and from the lab's laptop, before and after each change.
//
// In reading order: lab_test.go, accounts and instances; probe_test.go, the packets;
// packets_netns_test.go and its cases_…, every mutating action; guides_netns_test.go, the
// guides' commands; the others by their client.
package clients
