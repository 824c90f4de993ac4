package cluster

import "sync"

// A taskGroup starts the goroutines of a Cluster, and Run waits for them. Its mutex is a leaf.
type taskGroup struct {
	sync.Mutex
	stopping bool
	wg       sync.WaitGroup
}

// start runs f in a goroutine and returns true; after stop it returns false and does not run f.
func (t *taskGroup) start(f func()) bool {
	t.Lock()
	defer t.Unlock()
	if t.stopping {
		return false
	}
	t.wg.Go(f)
	return true
}

// stop makes start refuse, and waits until all goroutines have ended.
func (t *taskGroup) stop() {
	t.Lock()
	t.stopping = true
	t.Unlock()
	t.wg.Wait()
}
