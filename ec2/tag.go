package ec2

// A Tag is a label on any resource: a group, a rule, an instance and so on.
type Tag struct {
	Resource string // id
	Account  AccountID
	Region   Region
	Key      string
	Value    string
}
