// Package demoapi is the API that the examples put behind the gateway: what an
// upstream looks like that trusts the gateway's word about who calls. It knows no key.
package demoapi

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"sync"
)

// New returns the API:
//
//	GET  /health                  no tenant needed
//	POST /cargo/load              stores a cargo of the calling tenant
//	GET  /cargo/{id}/tracking     shows it to that tenant, and is 404 to all others
//	any  /…                       says what the gateway said about the caller
func New() http.Handler {
	s := &server{cargo: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("POST /cargo/load", s.load)
	mux.HandleFunc("GET /cargo/{id}/tracking", s.tracking)
	mux.HandleFunc("/", echo)
	return mux
}

type server struct {
	mu    sync.Mutex
	cargo map[string]string // id → tenant
}

func (s *server) load(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	id := "cargo_" + rand.Text()
	s.mu.Lock()
	s.cargo[id] = r.Header.Get("X-Tenant-ID")
	s.mu.Unlock()
	write(w, http.StatusAccepted, map[string]string{"cargo_id": id, "status": "queued"})
}

// tracking tells tenants apart by the gateway's header alone.
func (s *server) tracking(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	s.mu.Lock()
	owner, ok := s.cargo[id]
	s.mu.Unlock()
	if !ok || owner != r.Header.Get("X-Tenant-ID") {
		write(w, http.StatusNotFound, map[string]string{"detail": "Cargo not found"})
		return
	}
	write(w, http.StatusOK, map[string]string{"cargo_id": id, "status": "queued"})
}

// echo shows what the upstream of a gateway gets to know.
func echo(w http.ResponseWriter, r *http.Request) {
	write(w, http.StatusOK, map[string]any{
		"method": r.Method, "path": r.URL.Path, "query": r.URL.RawQuery,
		"tenant": r.Header.Get("X-Tenant-ID"), "plan": r.Header.Get("X-Tenant-Plan"),
		"key_id": r.Header.Get("X-Key-ID"), "key_name": r.Header.Get("X-Key-Name"),
		"scopes": r.Header.Get("X-Key-Scopes"), "environment": r.Header.Get("X-Key-Environment"),
		"authorization": r.Header.Get("Authorization"), "x_api_key": r.Header.Get("X-API-Key"),
	})
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
