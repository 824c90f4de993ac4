package world

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestBlocksMatchExactlyTheirPortRange(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		from := random.IntN(1 << 16)
		to := from + random.IntN(1<<16-from)
		matched := map[int]int{}
		for _, block := range blocks(from, to) {
			var value, mask int
			if _, err := fmt.Sscanf(block, "%v/%v", &value, &mask); err != nil {
				t.Fatalf("block %q: %v", block, err)
			}
			for port := range 1 << 16 {
				if port&mask == value {
					matched[port]++
				}
			}
		}
		for port := range 1 << 16 {
			want := 0
			if from <= port && port <= to {
				want = 1
			}
			if matched[port] != want {
				t.Fatalf("blocks of ports %d to %d match port %d %d times, want %d", from, to, port, matched[port], want)
			}
		}
	}
}
