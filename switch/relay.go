package vswitch

// NewRelay returns a Switch whose verdict is a constant: what comes in at a port leaves
// by the port added before or after it, unread. It has the pollers, batches and writes of
// a Switch and nothing else, and so it is the limit of what a Switch can be measured
// against. It filters nothing and serves benchmarks alone.
func NewRelay(c Config) (*Switch, error) {
	s, err := New(c)
	if err != nil {
		return nil, err
	}
	s.relay = true
	return s, nil
}

// relay carries a frame of n bytes to in's partner.
func (f *frame) relay(in *Port, n int) {
	partner := in.partner.Load()
	if partner == nil {
		return
	}
	if partner.device.Write(f.buffer[:n]) == nil {
		partner.txFrames.Add(1)
		partner.txBytes.Add(uint64(n - offloadLen))
	}
}

// NewStateless returns a Switch that asks the rules about every packet and remembers none,
// so that answers want rules of their own: what a Switch costs without its tracker. It is no
// security group and serves benchmarks alone.
func NewStateless(c Config) (*Switch, error) {
	s, err := New(c)
	if err != nil {
		return nil, err
	}
	s.stateless = true
	return s, nil
}
