// Package pathlab holds hostile and honest request targets, and models of how upstreams read them.
//
// A model answers one question: which route does this kind of upstream run for these bytes
// of the request line? A gateway passes where no target that it forwards lets a model run
// a route that the request may not use. The laboratory itself, which sends the targets
// through a gateway, is in package e2e.
//
// A model may run more than the real software does, never less. The long tests compare each
// model with the real software, target by target, where the system has it.
package pathlab

import "strings"

// Model is how one kind of upstream reads the target of a request.
type Model struct {
	Name string
	// Route returns the path that the upstream looks up in its table of routes. It returns
	// false where the upstream answers without a look-up: an error, or a redirect. Where
	// the upstream ignores case or a trailing slash, the result has neither.
	Route func(target, method string) (string, bool)
}

// Models returns every model.
func Models() []Model {
	var all []Model
	all = append(all, nodeModels...)
	all = append(all, phpModels...)
	all = append(all, scriptModels...)
	all = append(all, serverModels...)
	return all
}

// Handler returns the name of the route that an upstream of the laboratory runs for a path
// as Route returns it, "" where there is none.
func Handler(path string) string {
	switch path {
	case "/cargo/load":
		return "load"
	case "/v1/generate":
		return "generate"
	case "/health":
		return "health"
	}
	segments := strings.Split(path, "/")
	switch {
	case len(segments) == 4 && segments[1] == "cargo" && segments[2] != "" && segments[3] == "tracking":
		return "tracking"
	case strings.HasPrefix(path, "/v1/admin/"):
		return "admin"
	case strings.HasPrefix(path, "/api/"):
		return "api"
	case path == "/docs" || strings.HasPrefix(path, "/docs/"):
		return "docs"
	case path == "/app" || strings.HasPrefix(path, "/app/"):
		return "app"
	}
	return ""
}
