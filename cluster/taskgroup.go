package cluster

import "sync"

// A taskGroup starts the goroutines that Run owns beside its own. Its mutex is a leaf.
type taskGroup struct {
	sync.Mutex
	stopping bool
	wg       sync.WaitGroup
}

// start runs f in a goroutine, or returns false after stop.
func (t *taskGroup) start(f func()) bool {
	t.Lock()
	defer t.Unlock()
	if t.stopping {
		return false
	}
	t.wg.Go(f)
	return true
}

// stop waits until all goroutines have ended.
func (t *taskGroup) stop() {
	t.Lock()
	t.stopping = true
	t.Unlock()
	t.wg.Wait()
}
