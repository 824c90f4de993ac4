package peer

import "crypto/tls"

// Conn is a connection with a node whose certificate and membership were checked.
type Conn struct {
	*tls.Conn
	node string
}

// Node is the far end.
func (c *Conn) Node() string { return c.node }
