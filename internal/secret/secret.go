// Package secret makes access keys, and seals their secrets under the cluster key: 32
// bytes that every node of a cluster has in a file, and that no log and no snapshot has.
// Who finds a log, a snapshot or a backup signs nothing with it.
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// A Key is a cluster's. It is immutable and safe for any number of goroutines.
type Key struct {
	bytes [32]byte
	aead  cipher.AEAD
}

// NewKey makes a key.
func NewKey() *Key {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return newKey(b)
}

func newKey(b [32]byte) *Key {
	block, err := aes.NewCipher(b[:])
	if err != nil {
		panic(fmt.Sprintf("secret: %v", err)) // of 32 bytes AES makes a cipher
	}
	// A nonce of 96 random bits is safe for 2^32 boxes (NIST SP 800-38D §8.3).
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(fmt.Sprintf("secret: %v", err))
	}
	return &Key{bytes: b, aead: aead}
}

const keyHeader = "palisade-cluster-key "

// Encode is the key as its file holds it.
func (k *Key) Encode() []byte { return []byte(keyHeader + hex.EncodeToString(k.bytes[:]) + "\n") }

// DecodeKey reads what Encode wrote.
func DecodeKey(data []byte) (*Key, error) {
	text, ok := strings.CutPrefix(string(data), keyHeader)
	raw, err := hex.DecodeString(strings.TrimSpace(text))
	if !ok || err != nil || len(raw) != 32 {
		return nil, errors.New("this is no cluster key")
	}
	return newKey([32]byte(raw)), nil
}

// ID names the key and tells nothing of it.
func (k *Key) ID() string {
	sum := sha256.Sum256(append([]byte("palisade cluster key\x00"), k.bytes[:]...))
	return hex.EncodeToString(sum[:8])
}

// Seal makes a box of the secret of an account's access key. It opens as that key's
// alone, so that nobody who writes to a log makes one key of another.
func (k *Key) Seal(account, id, secret string) []byte {
	return k.aead.Seal(nil, nil, []byte(secret), context(account, id))
}

// Open opens a box.
func (k *Key) Open(account, id string, box []byte) (string, error) {
	secret, err := k.aead.Open(nil, nil, box, context(account, id))
	if err != nil {
		return "", fmt.Errorf("open the secret of %s: it is not what was sealed under cluster key %s", id, k.ID())
	}
	return string(secret), nil
}

func context(account, id string) []byte {
	return []byte("palisade access key\x00" + account + "\x00" + id)
}

// NewAccessKey makes a key that looks like Amazon's, for tools that check: 20 capitals
// and digits, 40 of base64.
func NewAccessKey() (id, secret string) {
	var a [10]byte
	var s [30]byte
	rand.Read(a[:])
	rand.Read(s[:])
	return "AKIA" + base32.StdEncoding.EncodeToString(a[:]), base64.StdEncoding.EncodeToString(s[:])
}

// NewAccountID makes twelve digits, the first not zero: people lose a leading zero.
func NewAccountID() string {
	n, err := rand.Int(rand.Reader, big.NewInt(9e11))
	if err != nil {
		panic(fmt.Sprintf("secret: no randomness: %v", err))
	}
	return n.Add(n, big.NewInt(1e11)).String()
}
