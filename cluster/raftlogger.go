package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger returns a logger for Raft that writes to the node's log.
func (c *Cluster) raftLogger() hclog.Logger {
	log := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off})
	log.RegisterSink(&c.raftLog)
	return log
}

// repeatAfter is how often the same message of Raft is logged as a warning. While a node is
// away, Raft logs a warning for every attempt to reach it.
const repeatAfter = 30 * time.Second

// logSink receives Raft's log lines. mu is a leaf.
type logSink struct {
	log *slog.Logger

	mu     sync.Mutex
	logged map[string]time.Time // last warning by message; Raft has a fixed set of messages
}

// routine lists the warnings of Raft that need no attention.
var routine = map[string]bool{
	"skipping application of old log":                     true, // at every start, because GetCommitIndex returns 0
	"failed to accept connection":                         true, // when Run ends
	"failed to decode incoming command":                   true, // a connection was closed
	"failed to flush response":                            true, // likewise
	"failed to get previous log":                          true, // at a new node, whose log is empty
	"appendEntries rejected, sending older logs":          true, // at a new node
	"no known peers, aborting election":                   true, // a node that joins waits for its leader
	"rejecting pre-vote request since we have a leader":   true,
	"not part of stable configuration, aborting election": true, // it has no vote
}

// Accept logs a message of Raft. It logs routine and repeated warnings at debug level.
func (s *logSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	as := slog.LevelDebug
	switch {
	case routine[msg]:
	case level == hclog.Warn:
		as = slog.LevelWarn
	case level == hclog.Error:
		as = slog.LevelError
	}
	if as > slog.LevelDebug && s.repeats(msg) {
		as = slog.LevelDebug
	}
	if !s.log.Enabled(context.Background(), as) {
		return
	}
	for i, a := range args { // an hclog.Format is a format and its operands
		if f, ok := a.(hclog.Format); ok {
			args[i] = fmt.Sprintf(f[0].(string), f[1:]...)
		}
	}
	s.log.Log(context.Background(), as, "raft: "+msg, args...)
}

func (s *logSink) repeats(msg string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if last, ok := s.logged[msg]; ok && now.Sub(last) < repeatAfter {
		return true
	}
	if s.logged == nil {
		s.logged = make(map[string]time.Time)
	}
	s.logged[msg] = now
	return false
}
