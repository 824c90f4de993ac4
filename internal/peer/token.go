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
	secretLen    = 20 // 160 bits: nobody guesses one
	tokenSumLen  = 4
	tokenBodyLen = tokenIDLen + secretLen + sha256.Size
)

// tokenEncoding has no letter that a terminal breaks or a person confuses by case.
var tokenEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Token admits one node, once. As text it is
//
//	palisade-join-BASE32( id [8] | secret [20] | SHA-256 of the authority's public key [32] | checksum [4] )
//
// in lower case. The hash lets the joining node know the cluster before it tells the
// secret; the checksum tells a text that was cut or mistyped from a token that is refused.
// It is the beginning of the SHA-256 of what stands before it.
type Token struct {
	ID     string // hex; names the token in the replicated state, and is no secret
	secret [secretLen]byte
	root   [sha256.Size]byte
}

// NewToken makes a token for the cluster with that root certificate (PEM).
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

// ParseToken reads what String wrote. Space around it and capital letters do no harm.
func ParseToken(text string) (Token, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("a join token begins with %q", tokenPrefix)
	}
	data, err := tokenEncoding.DecodeString(strings.ToUpper(body))
	if err != nil || len(data) != tokenBodyLen+tokenSumLen {
		return Token{}, errors.New("the join token is cut or mistyped")
	}
	t := Token{ID: hex.EncodeToString(data[:tokenIDLen])}
	copy(t.secret[:], data[tokenIDLen:])
	copy(t.root[:], data[tokenIDLen+secretLen:tokenBodyLen])
	// The checksum, and the bits that the last letter has to spare: one token has one text.
	if t.String() != text {
		return Token{}, errors.New("the join token is mistyped")
	}
	return t, nil
}

// String is the text that the joining node is given. It holds the secret.
func (t Token) String() string {
	data := make([]byte, 0, tokenBodyLen+tokenSumLen)
	id, _ := hex.DecodeString(t.ID)
	data = append(data, id...)
	data = append(data, t.secret[:]...)
	data = append(data, t.root[:]...)
	data = append(data, tokenSum(data)...)
	return tokenPrefix + strings.ToLower(tokenEncoding.EncodeToString(data))
}

// SecretHash is the hex SHA-256 of the secret: what the cluster keeps and compares.
func (t Token) SecretHash() string { return secretHash(t.secret[:]) }

// LogValue keeps the secret out of logs.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.ID) }

func secretHash(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

func tokenSum(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:tokenSumLen]
}
