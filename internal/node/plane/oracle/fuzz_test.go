package oracle

import (
	"math/rand/v2"
	"testing"
)

// A script makes random numbers from bytes. When they are used up, it goes on with one seed.
type script struct {
	data []byte
	rest *rand.PCG
}

func (s *script) Uint64() uint64 {
	if len(s.data) == 0 {
		return s.rest.Uint64()
	}
	b := uint64(s.data[0])
	s.data = s.data[1:]
	return b * 0x0101010101010101
}

// FuzzVPCs plays worlds whose requests and packets the fuzzer chooses.
func FuzzVPCs(f *testing.F) {
	for _, seed := range []string{"", "groups, entries, routes", "\x00\xff\x10\x80\x33\x71\xfe\x05\x44\x91\xa2\x0f"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		w := newWorld(t, rand.New(rand.NewPCG(1, 1)))
		defer w.close()
		w.r = rand.New(&script{data, rand.NewPCG(2, 2)})
		w.play(40 + len(data)/2)
	})
}
