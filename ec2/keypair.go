package ec2

// A KeyPair is the public half of a key that images put into root's authorized_keys.
type KeyPair struct {
	Account     AccountID
	Region      Region
	Name        string
	Fingerprint string // as EC2 shows it: SHA-1 of the private key (created) or MD5 of the public (imported)
	PublicKey   string // one line in authorized_keys form

	ID KeyPairID `json:",omitempty"` // "" of a pair of an earlier release
}
