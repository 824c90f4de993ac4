// Package clients has no code, only tests with real clients. They start a lab of the real
// binary and use it through unmodified clients alone: two versions of the aws command line,
// boto3, the SDKs for Go and JavaScript, Terraform and Ansible. Before and after each change, they send
// packets between instances and from the lab's laptop, to check that the change is enforced.
//
// Reading order: lab_test.go (accounts and instances), probe_test.go (packets),
// packets_netns_test.go and the cases_ files (every mutating action), guides_netns_test.go (the
// commands of the guides), then one file for each other client.
package clients
