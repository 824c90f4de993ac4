// Package secret makes access keys, and encrypts their secrets with the cluster key. The
// cluster key is 32 bytes in a file of every node. It is in no log and no snapshot, so a
// log, a snapshot or a backup alone does not reveal the secrets.
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

// A Key is the cluster key. It is immutable and safe for any number of goroutines.
type Key struct {
	bytes [32]byte
	aead  cipher.AEAD
}

// NewKey returns a new random cluster key.
func NewKey() *Key {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return newKey(b)
}

func newKey(b [32]byte) *Key {
	block, err := aes.NewCipher(b[:])
	if err != nil {
		panic(fmt.Sprintf("secret: %v", err)) // cannot happen: 32 bytes are an AES-256 key
	}
	// Random nonces of 96 bits are safe for up to 2^32 encryptions with one key (NIST SP
	// 800-38D §8.3).
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(fmt.Sprintf("secret: %v", err))
	}
	return &Key{bytes: b, aead: aead}
}

const keyHeader = "palisade-cluster-key "

// Encode returns the key in the format of its file.
func (k *Key) Encode() []byte { return []byte(keyHeader + hex.EncodeToString(k.bytes[:]) + "\n") }

// DecodeKey returns the key whose file has the content data, as Encode returned it.
func DecodeKey(data []byte) (*Key, error) {
	text, ok := strings.CutPrefix(string(data), keyHeader)
	raw, err := hex.DecodeString(strings.TrimSpace(text))
	if !ok || err != nil || len(raw) != 32 {
		return nil, errors.New("not a cluster key")
	}
	return newKey([32]byte(raw)), nil
}

// Raw returns the 32 bytes of the key, for a use other than Seal. The caller must not change them.
func (k *Key) Raw() []byte { return k.bytes[:] }

// ID returns a hash that identifies the cluster key and does not reveal it.
func (k *Key) ID() string {
	sum := sha256.Sum256(append([]byte("palisade cluster key\x00"), k.bytes[:]...))
	return hex.EncodeToString(sum[:8])
}

// Seal encrypts the secret of an account's access key with the cluster key. Open decrypts
// the result only for the same account and the same access key id, so nobody who can change
// a log can give an access key the secret of another.
func (k *Key) Seal(account, id, secret string) []byte {
	return k.aead.Seal(nil, nil, []byte(secret), context(account, id))
}

// Open returns the secret that Seal encrypted for this account and access key id.
func (k *Key) Open(account, id string, box []byte) (string, error) {
	secret, err := k.aead.Open(nil, nil, box, context(account, id))
	if err != nil {
		return "", fmt.Errorf("open the secret of %s: it was not sealed for this access key with cluster key %s", id, k.ID())
	}
	return string(secret), nil
}

func context(account, id string) []byte {
	return []byte("palisade access key\x00" + account + "\x00" + id)
}

// NewAccessKey makes an access key in Amazon's format, because some tools check it: an id of
// 20 capital letters and digits, and a secret of 40 base64 digits.
func NewAccessKey() (id, secret string) {
	var a [10]byte
	var s [30]byte
	rand.Read(a[:])
	rand.Read(s[:])
	return "AKIA" + base32.StdEncoding.EncodeToString(a[:]), base64.StdEncoding.EncodeToString(s[:])
}

// NewAccountID makes an id of twelve digits. The first is not zero, because spreadsheets and
// people drop a leading zero.
func NewAccountID() string {
	n, err := rand.Int(rand.Reader, big.NewInt(9e11))
	if err != nil {
		panic(fmt.Sprintf("secret: no randomness: %v", err))
	}
	return n.Add(n, big.NewInt(1e11)).String()
}
