package packet

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The test compares sums over every length and alignment, of random bytes, of zeros and of
// bytes of 0xff.
func TestSumEqualsANaiveSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random, all := make([]byte, 200), make([]byte, 200)
	for i := range random {
		random[i], all[i] = byte(r.Uint32()), 0xff
	}
	for _, b := range [][]byte{random, all, make([]byte, 200)} {
		for from := range 9 {
			for to := from; to <= len(b); to++ {
				var want uint32
				for i := from; i < to; i++ {
					want += uint32(b[i]) << (8 * ((i - from + 1) % 2))
				}
				want = want&0xffff + want>>16
				want = want&0xffff + want>>16
				if got := sum16(b[from:to]); got != want {
					t.Fatalf("sum of bytes %d to %d: %x, want %x", from, to, got, want)
				}
			}
		}
	}
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 60, 1400} {
		bytes := make([]byte, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				sum16(bytes)
			}
		})
	}
}
