// Package pathlab holds hostile and honest request targets, and models of how upstreams read
// paths.
//
// A model answers one question: which route does this kind of upstream run for the target of a
// request line? A gateway passes the test where it forwards no target that makes a model run a
// protected route. Package e2e sends the targets through a gateway.
//
// A model may run more routes than the real software does, but never fewer. The long tests compare
// each model with the real software, where that is installed.
package pathlab

import "strings"

// Model describes how one kind of upstream reads the target of a request.
type Model struct {
	Name string
	// Route returns the path that the upstream looks up in its routing table. It returns false
	// where the upstream answers with an error or a redirect instead. Where the upstream ignores
	// case or a trailing slash, the path is in lower case or has no trailing slash.
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

// Handler returns the name of the laboratory's route for a path that Model.Route returned, or ""
// where no route matches.
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
