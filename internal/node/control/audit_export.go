package control

import (
	"errors"
	"net/http"

	"palisade/internal/auditfile"
)

// auditExportHandler writes the hash-chained log of changes, with every change that was acknowledged
// before the request.
func (s *Server) auditExportHandler(w http.ResponseWriter, r *http.Request) {
	view, err := s.Cluster.ReadView(r.Context())
	if err == nil && !view.AuditChained() {
		err = errors.New("there is no chain to export: no change was made since this cluster began, or since an upgrade from a release without chains")
	}
	if err != nil {
		refuse(w, err)
		return
	}
	if err := auditfile.Write(w, view); err != nil {
		s.Logger.Warn("audit export not sent completely", "err", err)
		panic(http.ErrAbortHandler) // so that the client sees an error
	}
}

// auditChainHandler answers with the hashes that an export must have.
func (s *Server) auditChainHandler(w http.ResponseWriter, r *http.Request) {
	view, err := s.Cluster.ReadView(r.Context())
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, auditfile.ChainOf(view))
}
