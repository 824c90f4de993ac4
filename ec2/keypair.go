package ec2

// A KeyPair is the public half of a key pair. Images put the public key into root's
// authorized_keys.
type KeyPair struct {
	Account     AccountID
	Region      Region
	Name        string
	Fingerprint string // as EC2 shows it: SHA-1 of the private key (created) or MD5 of the public key (imported)
	PublicKey   string // one line of an authorized_keys file

	ID KeyPairID `json:",omitempty"` // "" for a pair that an earlier release created
}
