package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger hands raft's warnings to the node's log.
func (c *Cluster) raftLogger() hclog.Logger {
	log := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off})
	log.RegisterSink(&c.raftlog)
	return log
}

// raftlogEvery is how often the log says the same of raft's: it repeats for every
// attempt that a node is away.
const raftlogEvery = 30 * time.Second

// sink is a node's log, to raft.
type sink struct {
	log *slog.Logger

	mu   sync.Mutex
	said map[string]time.Time // bounded by raft's own texts
}

// chatter is what raft warns of and nobody needs to know.
var chatter = map[string]bool{
	"skipping application of old log":                     true, // GetCommitIndex has nothing to replay
	"failed to accept connection":                         true, // at the end of Run
	"failed to decode incoming command":                   true, // a connection was closed
	"failed to flush response":                            true, // so was that
	"failed to get previous log":                          true, // a new node has none
	"appendEntries rejected, sending older logs":          true, // for that reason
	"no known peers, aborting election":                   true, // it waits to be called
	"rejecting pre-vote request since we have a leader":   true,
	"not part of stable configuration, aborting election": true, // it has no vote
}

// Accept keeps raft's chatter at debug level.
func (s *sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch {
	case chatter[msg]:
	case level == hclog.Warn:
		to = slog.LevelWarn
	case level == hclog.Error:
		to = slog.LevelError
	}
	if to > slog.LevelDebug && s.repeats(msg) {
		to = slog.LevelDebug
	}
	if !s.log.Enabled(context.Background(), to) {
		return
	}
	for i, a := range args { // hclog.Fmt is a format and its operands
		if f, ok := a.(hclog.Format); ok {
			args[i] = fmt.Sprintf(f[0].(string), f[1:]...)
		}
	}
	s.log.Log(context.Background(), to, "raft: "+msg, args...)
}

func (s *sink) repeats(msg string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if last, ok := s.said[msg]; ok && now.Sub(last) < raftlogEvery {
		return true
	}
	if s.said == nil {
		s.said = make(map[string]time.Time)
	}
	s.said[msg] = now
	return false
}
