package cluster

import "sync"

// tasks are the goroutines beside Run's own. After stop none starts.
type tasks struct {
	sync.Mutex
	stopping bool
	wg       sync.WaitGroup
}

func (t *tasks) start(f func()) bool {
	t.Lock()
	defer t.Unlock()
	if t.stopping {
		return false
	}
	t.wg.Go(f)
	return true
}

func (t *tasks) stop() {
	t.Lock()
	t.stopping = true
	t.Unlock()
	t.wg.Wait()
}
