package peer

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strings"
	"testing"
)

func TestParseTokenReadsWhatStringWrote(t *testing.T) {
	id := founder(t, "node1")
	token, err := NewToken(id.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	text := token.String()
	for _, form := range []string{text, " " + text + "\n", strings.ToUpper(text)} {
		if got, err := ParseToken(form); err != nil || got != token {
			t.Errorf("parse %q: token %v, error %v; want token %v", form, got, err, token)
		}
	}
	sum := sha256.Sum256(token.secret[:])
	if token.SecretHash() != hex.EncodeToString(sum[:]) {
		t.Error("the secret's hash is not the SHA-256 of the secret")
	}
	if token.root != sha256.Sum256(id.authority().root.RawSubjectPublicKeyInfo) {
		t.Error("the token does not have the hash of the authority's key")
	}
	if other, _ := NewToken(id.RootPEM()); other.ID == token.ID || other.secret == token.secret {
		t.Error("two tokens have the same id or secret")
	}
	if logged := token.LogValue().Resolve(); logged.Kind() != slog.KindString || logged.String() != token.ID {
		t.Errorf("LogValue is %v, want only the id %s", logged, token.ID)
	}
	if _, err := NewToken([]byte("root")); err == nil {
		t.Error("NewToken succeeded without a root certificate")
	}
}

// The test changes each letter of a token in turn, and truncates the token at each letter.
func TestDamagedTokenIsRefused(t *testing.T) {
	token, err := NewToken(founder(t, "node1").RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	text := token.String()
	for i := range text {
		for _, letter := range []string{"a", "7", "1", "-", "é"} {
			if damaged := text[:i] + letter + text[i+1:]; damaged != text {
				if _, err := ParseToken(damaged); err == nil {
					t.Fatalf("the token was accepted with letter %d changed to %q", i, letter)
				}
			}
		}
		if _, err := ParseToken(text[:i]); err == nil {
			t.Fatalf("the token was accepted with only its first %d letters", i)
		}
	}
	if _, err := ParseToken(text + "aa"); err == nil {
		t.Fatal("the token was accepted with two more letters at its end")
	}
}

func FuzzParseToken(f *testing.F) {
	token := Token{ID: "0011223344556677"}
	f.Add(token.String())
	f.Add(tokenPrefix)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		if canonical := strings.ToLower(strings.TrimSpace(text)); token.String() != canonical {
			t.Fatalf("parsed %q, and String returns %q", canonical, token.String())
		}
	})
}
