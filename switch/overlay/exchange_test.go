package overlay

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// After an hour the initiator ends the stream, so that new keys are exchanged.
func TestStreamIsRenewedAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		began := time.Now()
		answered := make(chan error, 1)
		go func() {
			time.Sleep(time.Second) // net.Pipe has no buffer: if both ends wrote at once, they would wait for each other
			answered <- new(association).watchStream(far, responder)
		}()
		if err := new(association).watchStream(near, initiator); err != nil {
			t.Errorf("the initiator's stream failed after %v: %v", time.Since(began), err)
		}
		if stood := time.Since(began); stood < rekeyInterval || stood > rekeyInterval+2*pingInterval {
			t.Errorf("the initiator's stream lasted %v, want about %v", stood, rekeyInterval)
		}
		near.Close()
		if err := <-answered; err != nil {
			t.Errorf("the responder's stream failed: %v", err)
		}
	})
}

// The remote node reads but sends nothing, as when it hangs.
func TestSilentStreamEnds(t *testing.T) {
	for _, r := range []role{initiator, responder} {
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
			if err := new(association).watchStream(near, r); err == nil || time.Since(began) > silenceLimit+2*pingInterval || time.Since(began) < silenceLimit {
				t.Errorf("the stream to a silent node ended after %v with error %v, want an error after about %v", time.Since(began), err, silenceLimit)
			}
			near.Close()
		})
	}
}

// rekey makes the node replace its associations by ones with new keys.
func (o *Overlay) rekey() {
	epoch, _ := o.Renewed()
	o.Renew(epoch + 1)
}
