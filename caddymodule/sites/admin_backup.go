package sites

import (
	"encoding/json"
	"mime"
	"net/http"
	"path/filepath"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/management"
)

// serveBackup writes a backup and answers the request when the backup is complete.
func serveBackup(a App, w http.ResponseWriter, r *http.Request) {
	if !isLocal(r) {
		api.WriteProblem(w, http.StatusForbidden, "not_local", "This admin endpoint makes no backups, because it listens neither on a loopback address nor on a Unix socket.")
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		api.WriteProblem(w, http.StatusMethodNotAllowed, "method_not_allowed", "Request a backup with POST.")
		return
	}
	var asked adminapi.Backup
	// A web page of another origin can't send this content type without a preflight, which the
	// endpoint does not answer.
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&asked); err != nil || kind != "application/json" || !filepath.IsAbs(asked.File) {
		api.WriteProblem(w, http.StatusBadRequest, "invalid_request", `The body must be JSON: {"file": "<absolute path of a new file>"}.`)
		return
	}
	s, ok := a.Engine().Store().(adminapi.Backuper)
	if !ok {
		api.WriteProblem(w, http.StatusServiceUnavailable, management.CodeStoreUnavailable, "The store is not open yet, or it can't write backups. Back up PostgreSQL with its own tools, such as pg_dump.")
		return
	}
	size, err := s.Backup(r.Context(), asked.File)
	if err != nil {
		api.WriteProblem(w, http.StatusConflict, "backup_failed", err.Error())
		return
	}
	asked.Bytes = size
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(asked)
}
