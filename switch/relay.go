package vswitch

// NewRelay returns a Switch that forwards each frame to a fixed port without reading it: ports are
// partners in pairs, in the order they were added. It has the pollers, batches and writes of a
// Switch and nothing else, so it is the upper limit for the throughput of a Switch. It filters
// nothing and is for benchmarks only.
func NewRelay(c Config) (*Switch, error) {
	s, err := New(c)
	if err != nil {
		return nil, err
	}
	s.relay = true
	return s, nil
}

// relay writes a frame of n bytes to in's partner.
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

// NewStateless returns a Switch that checks the rules for every packet and tracks no connections,
// so answers need rules of their own. It measures what the tracker costs. It is no security group
// and is for benchmarks only.
func NewStateless(c Config) (*Switch, error) {
	s, err := New(c)
	if err != nil {
		return nil, err
	}
	s.stateless = true
	return s, nil
}
