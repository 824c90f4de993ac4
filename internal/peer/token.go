package peer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const (
	tokenPrefix  = "palisade-join-"
	tokenIDLen   = 8
	secretLen    = 20 // 160 bits cannot be guessed
	tokenSumLen  = 4
	tokenBodyLen = tokenIDLen + secretLen + sha256.Size
)

// tokenEncoding has only letters and digits, so a double click in a terminal selects the whole
// token. It does not depend on upper and lower case.
var tokenEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Token admits one node, once. As text it is
//
//	palisade-join-BASE32( id [8] | secret [20] | SHA-256 of the authority's public key [32] | checksum [4] )
//
// in lower case. With the hash, the joining node can verify the cluster before it sends the
// secret. The checksum, the first 4 bytes of the SHA-256 of the preceding bytes, detects a
// truncated or mistyped token without asking the cluster.
type Token struct {
	ID     string // hex; identifies the token in the replicated state, and is not secret
	secret [secretLen]byte
	root   [sha256.Size]byte
}

// NewToken makes a random token for the cluster whose root certificate (PEM) is root.
func NewToken(root []byte) (Token, error) {
	cert, err := parseCertificate(root)
	if err != nil {
		return Token{}, fmt.Errorf("make join token: %w", err)
	}
	t := Token{root: sha256.Sum256(cert.RawSubjectPublicKeyInfo)}
	var id [tokenIDLen]byte
	rand.Read(id[:])
	rand.Read(t.secret[:])
	t.ID = hex.EncodeToString(id[:])
	return t, nil
}

// ParseToken parses a text that String returned. It ignores case and surrounding space.
func ParseToken(text string) (Token, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("a join token begins with %q", tokenPrefix)
	}
	data, err := tokenEncoding.DecodeString(strings.ToUpper(body))
	if err != nil || len(data) != tokenBodyLen+tokenSumLen {
		return Token{}, errors.New("the join token is truncated or mistyped")
	}
	t := Token{ID: hex.EncodeToString(data[:tokenIDLen])}
	copy(t.secret[:], data[tokenIDLen:])
	copy(t.root[:], data[tokenIDLen+secretLen:tokenBodyLen])
	// This comparison checks the checksum, and also the unused bits of the last letter.
	if t.String() != text {
		return Token{}, errors.New("the join token is mistyped")
	}
	return t, nil
}

// String returns the token as text, for the joining node. It contains the secret.
func (t Token) String() string {
	data := make([]byte, 0, tokenBodyLen+tokenSumLen)
	id, _ := hex.DecodeString(t.ID)
	data = append(data, id...)
	data = append(data, t.secret[:]...)
	data = append(data, t.root[:]...)
	data = append(data, tokenSum(data)...)
	return tokenPrefix + strings.ToLower(tokenEncoding.EncodeToString(data))
}

// SecretHash returns the SHA-256 of the secret, in hex. The cluster stores this hash, not the
// secret.
func (t Token) SecretHash() string { return secretHash(t.secret[:]) }

// LogValue returns only the ID, so that the secret is in no log.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.ID) }

func secretHash(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

func tokenSum(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:tokenSumLen]
}
