// Package demoapi is the API that the examples put behind the gateway. It shows an upstream that
// trusts the gateway's headers: it identifies tenants by them and checks no key.
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
//	GET  /health                  needs no tenant
//	POST /cargo/load              stores a cargo of the calling tenant
//	GET  /cargo/{id}/tracking     shows a cargo to its tenant, and answers 404 to all others
//	any  /…                       returns the request and the gateway's headers as JSON
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
	cargo map[string]string // cargo maps the id of a cargo to the slug of the tenant that owns it.
}

func (s *server) load(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	id := "cargo_" + rand.Text()
	s.mu.Lock()
	s.cargo[id] = r.Header.Get("X-Tenant-ID")
	s.mu.Unlock()
	write(w, http.StatusAccepted, map[string]string{"cargo_id": id, "status": "queued"})
}

// tracking identifies the tenant by the gateway's header X-Tenant-ID alone.
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

// echo returns the request, the gateway's headers, and the credentials, which should be empty.
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
