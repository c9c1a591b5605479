package pathlab

import "testing"

// Each model returns the route that its software is known to run. The long tests compare the
// models with the software.
func TestModels(t *testing.T) {
	models := make(map[string]Model)
	for _, m := range Models() {
		if _, ok := models[m.Name]; ok {
			t.Errorf("two models are named %s", m.Name)
		}
		models[m.Name] = m
	}
	const refused = "refused"
	for _, tc := range []struct{ model, target, route string }{
		{"Node, new URL", "//x/cargo/load", "/cargo/load"},
		{"Node, new URL", "///x@y:1/cargo/load?q", "/cargo/load"},
		{"Node, new URL", `/\x/cargo/load`, "/cargo/load"},
		{"Node, new URL", "/x/%2e%2E/cargo\t/load#y", "/cargo/load"},
		{"Node, new URL", "//x:y/cargo/load", refused},
		{"Node, new URL", "/c%61rgo/load", "/c%61rgo/load"},
		{"Node, new URL, decoded", "/c%61rgo/load", "/cargo/load"},
		{"Node, url.parse", "//x/cargo/load", "//x/cargo/load"},
		{"Node, url.parse", "//x@y/cargo/load", "/cargo/load"},
		{"Node, url.parse", `\\x@y\cargo\load?z`, "/cargo/load"},
		{"Node, url.parse", "//x@[::1]/cargo/load", "/cargo/load"},
		{"Node, url.parse", "http://x/cargo/load#y", "/cargo/load"},
		{"Express", "/CARGO/load/?x", "/cargo/load"},
		{"Express", "//x@y/cargo/load#", "/cargo/load"},
		{"Fastify", "/cargo//load;x", "/cargo/load"},
		{"Fastify", "/cargo/loa%64/", "/cargo/load"},
		{"Fastify", "/cargo%2fload", "/cargo%2fload"},
		{"restify", "//x@y/cargo/load/", "/cargo/load"},
		{"PHP, parse_url", "//x/cargo/load", "/cargo/load"},
		{"PHP, parse_url", "//x:80/cargo/load#y", "/cargo/load"},
		{"PHP, parse_url", "x:1/cargo/load", "/cargo/load"},
		{"PHP, parse_url", "///cargo/load", refused},
		{"PHP, parse_url", "/cargo/load:80", refused},
		{"Symfony", "/index.php/cargo/load", "/cargo/load"},
		{"Symfony", "/index.phpcargo/load", "/cargo/load"},
		{"Symfony", "/%69ndex.ph%70/cargo/loa%64#x", "/cargo/load"},
		{"Symfony before 2025", "/index.phpcargo/load", "cargo/load"},
		{"Symfony in a directory", "/cargo/index.php/load", "/cargo/load"},
		{"Laravel", "/index.phpcargo/load/", "/cargo/load"},
		{"PHP, PATH_INFO", "/x.php/cargo/load", "/cargo/load"},
		{"Rails", "/cargo//load.json/", "/cargo/load"},
		{"Rails", "/cargo/loa%64", "/cargo/loa%64"},
		{"Rails, decoded by the server", "/x/%2e%2e/cargo/loa%64.x", "/cargo/load"},
		{"Sinatra", "/x%5c..%2fcargo/load/", "/cargo/load"},
		{"Flask", "///cargo/loa%64", "/cargo/load"},
		{"Flask", "/cargo//load", "/cargo//load"},
		{"WSGI", "/cargo%2Fload?x", "/cargo/load"},
		{"Python, urlsplit", "//x/cargo/loa%64", "/cargo/load"},
		{"Go, ServeMux", "/cargo/load", "/cargo/load"},
		{"Go, ServeMux", "//cargo/load", refused},
		{"nginx", "//x/../cargo%2fload?", "/cargo/load"},
		{"nginx", "/cargo/load%00", refused},
		{"nginx", "/../cargo/load", refused},
		{"nginx, merge_slashes off", "//cargo/load", "//cargo/load"},
		{"Tomcat", "/x/..;y/cargo;z/load;", "/cargo/load"},
		{"Tomcat", "/cargo%2fload", refused},
		{"servlet container, lenient", "/x%5c%2e%2e/cargo%2fload%00", "/cargo/load"},
		{"Spring, suffixes and slashes ignored", "/cargo/load.json/", "/cargo/load"},
		{"IIS", "/CARGO%u002fload. ", "/cargo/load"},
		{"decodes twice", "/x%252f..%2fcargo/load", "/cargo/load"},
		{"decodes thrice, ignores case", "/cargo%25255cLOAD", "/cargo/load"},
	} {
		m, ok := models[tc.model]
		if !ok {
			t.Fatalf("there is no model %s", tc.model)
		}
		route, ok := m.Route(tc.target, "GET")
		if !ok {
			route = refused
		}
		if route != tc.route {
			t.Errorf("%s reads %q as %q, want %q", tc.model, tc.target, route, tc.route)
		}
	}
}

// No model panics for any bytes, not even for those that no client sends.
func FuzzModels(f *testing.F) {
	for _, seed := range []string{"//x@y/a", "http://x:1/a;b?c#d", "%u00", "/%", "//[", "\xff", ":", "a:1/", "/index.php", "*", "?", "#", "xindex.php", "\t/"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, target string) {
		for _, m := range Models() {
			m.Route(target, "GET")
		}
	})
}
