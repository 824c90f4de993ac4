package ec2

// A Tag is a key and a value on a resource: a group, a rule, an instance and so on.
type Tag struct {
	Resource string // id of the resource
	Account  AccountID
	Region   Region
	Key      string
	Value    string
}
