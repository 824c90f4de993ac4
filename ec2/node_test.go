package ec2

import "strings"

var (
	gossipKey  = []byte("a gossip key of thirty-two bytes")
	secretHash = strings.Repeat("5e", 32)
)
