package secret

import (
	"bytes"
	"regexp"
	"testing"
)

func TestBoxOpensOnlyForItsAccessKey(t *testing.T) {
	k := NewKey()
	box := k.Seal("598916040194", "AKIDALBERT", "the secret of albert")
	if got, err := k.Open("598916040194", "AKIDALBERT", box); err != nil || got != "the secret of albert" {
		t.Errorf("Open returned %q, %v; want the sealed secret and no error", got, err)
	}
	if bytes.Contains(box, []byte("secret")) || bytes.Equal(box, k.Seal("598916040194", "AKIDALBERT", "the secret of albert")) {
		t.Errorf("the box %q contains the plain secret, or a second Seal returned an equal box", box)
	}
	changed := bytes.Clone(box)
	changed[len(changed)-1] ^= 1
	for what, open := range map[string]func() (string, error){
		"for another access key":   func() (string, error) { return k.Open("598916040194", "AKIDMARY", box) },
		"for another account":      func() (string, error) { return k.Open("495219933132", "AKIDALBERT", box) },
		"with another cluster key": func() (string, error) { return NewKey().Open("598916040194", "AKIDALBERT", box) },
		"box changed":              func() (string, error) { return k.Open("598916040194", "AKIDALBERT", changed) },
		"box truncated":            func() (string, error) { return k.Open("598916040194", "AKIDALBERT", box[:11]) },
		"box empty":                func() (string, error) { return k.Open("598916040194", "AKIDALBERT", nil) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: Open returned the secret %q, want an error", what, got)
		}
	}
}

func TestDecodeKeyReadsWhatEncodeWrote(t *testing.T) {
	k := NewKey()
	again, err := DecodeKey(k.Encode())
	if err != nil || again.ID() != k.ID() || again.bytes != k.bytes {
		t.Errorf("DecodeKey returned %v, %v; want the encoded key", again, err)
	}
	if k.ID() == NewKey().ID() || !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(k.ID()) {
		t.Errorf("the key id is %s, want 16 hex digits that differ from another key's", k.ID())
	}
	for _, bad := range []string{"", "palisade-cluster-key ", "palisade-cluster-key 00", string(k.Encode()[1:]), string(k.Encode()) + "00"} {
		if _, err := DecodeKey([]byte(bad)); err == nil {
			t.Errorf("DecodeKey returned no error for the invalid content %q", bad)
		}
	}
}

func TestAccessKeysHaveAmazonsFormat(t *testing.T) {
	id, secret := NewAccessKey()
	if !regexp.MustCompile(`^AKIA[A-Z2-7]{16}$`).MatchString(id) || len(secret) != 40 {
		t.Errorf("access key id %s and a secret of %d characters, want AKIA with 16 more, and 40", id, len(secret))
	}
	if account := NewAccountID(); !regexp.MustCompile(`^[1-9][0-9]{11}$`).MatchString(account) {
		t.Errorf("account id %s, want 12 digits without a leading zero", account)
	}
}
