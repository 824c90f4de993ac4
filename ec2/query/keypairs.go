package query

import (
	"crypto/ed25519"
	"crypto/md5" // of imported RSA keys, for their fingerprint
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // of created RSA keys, for their fingerprint
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// keyPairActions manage key pairs.
var keyPairActions = map[string]handler{
	"CreateKeyPair":    action(createKeyPair),
	"ImportKeyPair":    action(importKeyPair),
	"DescribeKeyPairs": action(describeKeyPairs),
	"DeleteKeyPair":    action(deleteKeyPair),
}

type createKeyPairRequest struct {
	KeyName string             `wire:"KeyName"`
	KeyType string             `wire:"KeyType"`
	Tags    []tagSpecification `wire:"TagSpecification"`
}

type createKeyPairAnswer struct {
	KeyName     string        `wire:"keyName"`
	Fingerprint string        `wire:"keyFingerprint"`
	Material    string        `wire:"keyMaterial"`
	ID          ec2.KeyPairID `wire:"keyPairId"`
	Tags        []tag         `wire:"tagSet"`
}

// createKeyPair makes a key pair, stores the public key, and returns the private key, which
// is not stored. The pair is made before Apply, because Apply must not use randomness.
func createKeyPair(c *call, r *createKeyPairRequest) (*createKeyPairAnswer, error) {
	var pair *madePair
	var err error
	switch r.KeyType {
	case "", "rsa":
		pair, err = makeRSA()
	case "ed25519":
		pair, err = makeEd25519()
	default:
		return nil, ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for keyType.", wire.Quote(r.KeyType))
	}
	if err != nil {
		return nil, err
	}
	made, err := c.storeKeyPair(r.KeyName, pair.fingerprint, pair.public, r.Tags)
	if err != nil {
		return nil, err
	}
	return &createKeyPairAnswer{made.Name, made.Fingerprint, string(pem.EncodeToMemory(pair.private)), made.ID, c.tags(string(made.ID))}, nil
}

// storeKeyPair stores the public key of a pair and returns the stored KeyPair.
func (c *call) storeKeyPair(name, fingerprint string, public ssh.PublicKey, specifications []tagSpecification) (*ec2.KeyPair, error) {
	tags, err := tagsFor(specifications, "key-pair")
	if err != nil {
		return nil, err
	}
	result, err := c.apply(&state.CreateKeyPair{
		KeyPair: ec2.KeyPair{
			Account:     c.account,
			Region:      c.region,
			Name:        name,
			Fingerprint: fingerprint,
			PublicKey:   authorizedKey(public),
		},
		Identified: true,
		Tags:       tags,
	})
	if err != nil {
		return nil, err
	}
	return result.KeyPair, nil
}

type madePair struct {
	public      ssh.PublicKey
	private     *pem.Block
	fingerprint string
}

func makeRSA() (*madePair, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make key pair: %w", err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make key pair: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make key pair: %w", err)
	}
	sum := sha1.Sum(der)
	private := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return &madePair{public, private, colons(sum[:])}, nil
}

func makeEd25519() (*madePair, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key pair: %w", err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make key pair: %w", err)
	}
	private, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, fmt.Errorf("make key pair: %w", err)
	}
	return &madePair{public, private, sha256Fingerprint(public)}, nil
}

type importKeyPairRequest struct {
	KeyName  string             `wire:"KeyName"`
	Material string             `wire:"PublicKeyMaterial"`
	Tags     []tagSpecification `wire:"TagSpecification"`
}

type importKeyPairAnswer struct {
	KeyName     string        `wire:"keyName"`
	Fingerprint string        `wire:"keyFingerprint"`
	ID          ec2.KeyPairID `wire:"keyPairId"`
	Tags        []tag         `wire:"tagSet"`
}

func importKeyPair(c *call, r *importKeyPairRequest) (*importKeyPairAnswer, error) {
	if r.Material == "" {
		return nil, ec2.Missing("PublicKeyMaterial")
	}
	text, err := base64.StdEncoding.DecodeString(r.Material)
	if err != nil {
		return nil, ec2.Errorf("InvalidParameterValue", "Invalid BASE64 encoding of PublicKeyMaterial")
	}
	// Options such as command="…" would be copied into authorized_keys: refuse them.
	public, _, options, rest, err := ssh.ParseAuthorizedKey(text)
	if err != nil || len(options) > 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, ec2.Errorf("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
	}
	fingerprint, err := importedFingerprint(public)
	if err != nil {
		return nil, err
	}
	made, err := c.storeKeyPair(r.KeyName, fingerprint, public, r.Tags)
	if err != nil {
		return nil, err
	}
	return &importKeyPairAnswer{made.Name, made.Fingerprint, made.ID, c.tags(string(made.ID))}, nil
}

// importedFingerprint returns the MD5 of an RSA key's SubjectPublicKeyInfo, or the SHA-256
// of an Ed25519 key (EC2 User Guide, "Verify the fingerprint of your key pair").
func importedFingerprint(public ssh.PublicKey) (string, error) {
	switch public.Type() {
	case ssh.KeyAlgoED25519:
		return sha256Fingerprint(public), nil
	case ssh.KeyAlgoRSA:
		der, err := x509.MarshalPKIXPublicKey(public.(ssh.CryptoPublicKey).CryptoPublicKey())
		if err != nil {
			return "", ec2.Errorf("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
		}
		sum := md5.Sum(der)
		return colons(sum[:]), nil
	}
	return "", ec2.Errorf("InvalidKey.Format", "Key is not in valid OpenSSH public key format: it must be RSA or ED25519")
}

func sha256Fingerprint(public ssh.PublicKey) string {
	sum := sha256.Sum256(public.Marshal())
	return base64.StdEncoding.EncodeToString(sum[:])
}

func authorizedKey(public ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))
}

func colons(sum []byte) string {
	pairs := make([]string, len(sum))
	for i, b := range sum {
		pairs[i] = hex.EncodeToString([]byte{b})
	}
	return strings.Join(pairs, ":")
}

type describeKeyPairsRequest struct {
	KeyNames         []string        `wire:"KeyName"`
	IDs              []ec2.KeyPairID `wire:"KeyPairId"`
	Filters          []filter        `wire:"Filter"`
	IncludePublicKey bool            `wire:"IncludePublicKey"`
}

type describeKeyPairsAnswer struct {
	KeyPairs []keyPairItem `wire:"keySet"`
}

type keyPairItem struct {
	ID          ec2.KeyPairID `wire:"keyPairId"`
	Name        string        `wire:"keyName"`
	Type        string        `wire:"keyType"`
	Fingerprint string        `wire:"keyFingerprint"`
	PublicKey   string        `wire:"publicKey"`
	Tags        []tag         `wire:"tagSet"`
}

// keyType returns EC2's name of a stored key's algorithm.
func keyType(k *ec2.KeyPair) string {
	if strings.HasPrefix(k.PublicKey, ssh.KeyAlgoED25519+" ") {
		return "ed25519"
	}
	return "rsa"
}

var keyPairFilters = filterable[*ec2.KeyPair]{
	"fingerprint": func(k *ec2.KeyPair) []string { return []string{k.Fingerprint} },
	"key-name":    func(k *ec2.KeyPair) []string { return []string{k.Name} },
	"key-pair-id": func(k *ec2.KeyPair) []string { return nonEmpty(k.ID) },
}

func describeKeyPairs(c *call, r *describeKeyPairsRequest) (*describeKeyPairsAnswer, error) {
	if err := keyPairFilters.check(r.Filters); err != nil {
		return nil, err
	}
	for _, name := range r.KeyNames {
		if _, ok := c.view.KeyPair(c.account, c.region, name); !ok {
			return nil, ec2.Errorf("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", wire.Quote(name))
		}
	}
	found := make(map[ec2.KeyPairID]bool)
	tags := taggedBy(c, func(k *ec2.KeyPair) string { return string(k.ID) })
	answer := &describeKeyPairsAnswer{}
	for k := range c.view.KeyPairs(c.account, c.region) {
		named := len(r.KeyNames)+len(r.IDs) == 0 || slices.Contains(r.KeyNames, k.Name) || k.ID != "" && slices.Contains(r.IDs, k.ID)
		if !named {
			continue
		}
		found[k.ID] = true
		if !keyPairFilters.match(k, r.Filters, tags) {
			continue
		}
		item := keyPairItem{ID: k.ID, Name: k.Name, Type: keyType(k), Fingerprint: k.Fingerprint, Tags: c.tags(string(k.ID))}
		if r.IncludePublicKey {
			item.PublicKey = k.PublicKey
		}
		answer.KeyPairs = append(answer.KeyPairs, item)
	}
	for _, id := range r.IDs {
		if !found[id] {
			return nil, ec2.NoSuch("key", id)
		}
	}
	return answer, nil
}

type deleteKeyPairRequest struct {
	KeyName string        `wire:"KeyName"`
	ID      ec2.KeyPairID `wire:"KeyPairId"`
}

type deleteKeyPairAnswer struct {
	returned
	ID ec2.KeyPairID `wire:"keyPairId"`
}

func deleteKeyPair(c *call, r *deleteKeyPairRequest) (*deleteKeyPairAnswer, error) {
	for k := range c.view.KeyPairs(c.account, c.region) {
		if r.ID == "" || k.ID != r.ID {
			continue
		}
		if r.KeyName != "" && r.KeyName != k.Name {
			return nil, ec2.Errorf("InvalidParameterCombination", "The key pair '%s' is not the one with the ID '%s'", wire.Quote(r.KeyName), wire.Quote(string(r.ID)))
		}
		r.KeyName = k.Name
	}
	if r.KeyName == "" && r.ID != "" {
		return nil, ec2.NoSuch("key", r.ID)
	}
	result, err := c.apply(&state.DeleteKeyPair{Account: c.account, Region: c.region, Name: r.KeyName})
	if err != nil {
		return nil, err
	}
	answer := &deleteKeyPairAnswer{returned: done}
	if result.KeyPair != nil {
		answer.ID = result.KeyPair.ID
	}
	return answer, nil
}
