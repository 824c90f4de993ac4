package overlay

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestStreamStandsForAnHour, and then whoever asked ends it, to ask for other keys.
func TestStreamStandsForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		began := time.Now()
		answered := make(chan error, 1)
		go func() {
			time.Sleep(time.Second) // a pipe holds nothing: two that write at once would wait for each other
			answered <- watch(far, answers)
		}()
		if err := watch(near, asks); err != nil {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if stood := time.Since(began); stood < rekeyEvery || stood > rekeyEvery+2*pingEvery {
			t.Errorf("it stood for %v", stood)
		}
		near.Close()
		if err := <-answered; err != nil {
			t.Errorf("the other end: %v", err)
		}
	})
}

// TestSilentStreamEnds: the far end reads and says nothing, as one does that is stuck.
func TestSilentStreamEnds(t *testing.T) {
	for _, r := range []role{asks, answers} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			go func() {
				for {
					if _, err := far.Read(make([]byte, 64)); err != nil {
						return
					}
				}
			}()
			began := time.Now()
			if err := watch(near, r); err == nil || time.Since(began) > deafAfter+2*pingEvery || time.Since(began) < deafAfter {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			near.Close()
		})
	}
}
