package ec2

// Kept says what becomes of an interface when its instance is terminated.
type Kept bool

const (
	KeepInterface   Kept = true
	DeleteInterface Kept = false
)
