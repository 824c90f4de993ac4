package gossip

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A node that an attacker controls has the gossip key. memberlist panics on some messages that are
// encrypted with the key, and decompresses others to many times their length, although no node of ours
// compresses. The transport decrypts each message before memberlist does, and drops those.

// maxStreamBytes is the length of one message of a stream: the states of 10,000 nodes, and their claims.
const maxStreamBytes = 8 << 20

// Parts of memberlist's format (its net.go, label.go and security.go).
const (
	compoundType  = 7
	compressType  = 9
	encryptedType = 10
	crcType       = 12
	labelType     = 244

	nonceLen         = 12
	plainVersion     = 1 // without padding; the other version has padding, of which memberlist does not check the length
	maxCompoundDepth = 4
)

var (
	errHarmful = errors.New("the message is harmful: it is padded, empty, compressed or nested too deep")
	errTooLong = fmt.Errorf("the message is longer than %d bytes", maxStreamBytes)
)

// checkSealed returns an error for an encrypted message that memberlist should not read. A message that
// is not encrypted with our keys is none: memberlist refuses it.
func checkSealed(keys [][]byte, sealed, additional []byte) error {
	if len(sealed) < 1+nonceLen {
		return nil
	}
	if sealed[0] != plainVersion {
		return errHarmful
	}
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			return err
		}
		if plain, err := gcm.Open(nil, sealed[1:1+nonceLen], sealed[1+nonceLen:], additional); err == nil {
			return checkPlain(plain, maxCompoundDepth)
		}
	}
	return nil
}

// checkPlain returns an error for a message, or one of several joined messages, that is compressed.
func checkPlain(plain []byte, depth int) error {
	if len(plain) >= 5 && plain[0] == crcType {
		plain = plain[5:]
	}
	switch {
	case len(plain) == 0 || plain[0] == compressType || depth == 0:
		return errHarmful
	case plain[0] != compoundType || len(plain) < 2:
		return nil
	}
	count := int(plain[1])
	lengths, parts := plain[2:], []byte(nil)
	if len(lengths) < 2*count {
		return nil // memberlist refuses it
	}
	lengths, parts = lengths[:2*count], lengths[2*count:]
	for ; len(lengths) > 0; lengths = lengths[2:] {
		n := int(binary.BigEndian.Uint16(lengths))
		if len(parts) < n {
			return nil // memberlist reads the parts before this one
		}
		if err := checkPlain(parts[:n], depth-1); err != nil {
			return err
		}
		parts = parts[n:]
	}
	return nil
}

// cutLabel returns the label that a message begins with, and the rest. Only the first message of a
// stream and a packet have a label.
func cutLabel(b []byte) (label, rest []byte) {
	if len(b) < 2 || b[0] != labelType || len(b) < 2+int(b[1]) {
		return nil, b
	}
	return b[2 : 2+b[1]], b[2+b[1]:]
}

// checkPacket returns an error for a packet that memberlist should not read.
func (t *transport) checkPacket(b []byte) error {
	label, sealed := cutLabel(b)
	return checkSealed(t.ring.GetKeys(), sealed, label)
}

// readMessage reads the first message of a stream and checks it. It returns a reader of the whole
// stream, with that message.
func (c *trackedConn) readMessage() (io.Reader, error) {
	in := bufio.NewReader(c.Conn)
	label := c.transport.label // of a message in a stream that this node opened
	var read bytes.Buffer
	if first, err := in.Peek(1); err != nil {
		return nil, err
	} else if first[0] == labelType {
		head, err := in.Peek(2)
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(&read, in, 2+int64(head[1])); err != nil {
			return nil, err
		}
		sent, _ := cutLabel(read.Bytes())
		label = bytes.Clone(sent)
	}
	all := func() io.Reader { return io.MultiReader(&read, io.LimitReader(in, maxStreamBytes)) }
	head, err := in.Peek(5)
	if len(head) == 0 {
		return nil, err
	}
	if head[0] != encryptedType || err != nil {
		return all(), nil // memberlist refuses it
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length > maxStreamBytes {
		return nil, errTooLong
	}
	additional := append(bytes.Clone(head), label...)
	start := read.Len() + len(head)
	if _, err := io.CopyN(&read, in, int64(len(head))+int64(length)); err != nil {
		return nil, err
	}
	if err := checkSealed(c.transport.ring.GetKeys(), read.Bytes()[start:], additional); err != nil {
		return nil, err
	}
	return all(), nil
}

// Read reads from the stream, once its first message is known to be harmless. Only one goroutine reads.
func (c *trackedConn) Read(b []byte) (int, error) {
	if c.in == nil && c.refused == nil {
		c.in, c.refused = c.readMessage()
	}
	if c.refused != nil {
		return 0, c.refused
	}
	return c.in.Read(b)
}
