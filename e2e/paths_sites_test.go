package e2e

import "slices"

// labSite is a site with rules of one form. It states which routes these rules close to the
// requests that are sent to it.
type labSite struct {
	name string
	// site holds the directives before the proxy.
	site string
	// targets are the paths whose spellings are sent to the site.
	targets []string
	method  string
	// key is true if requests have a key whose only scope is "read".
	key bool
	// closed reports whether the request must not run the route of this handler.
	closed func(handler string, a arrival) bool
	// but names the models of upstreams that are not checked on this site.
	but []string
	// some is true if only a quarter of the spellings is sent. Soak tests send all.
	some bool
	// asSent is true if the site forwards some paths unchanged.
	asSent bool
}

// onlyOpen returns a function that closes all routes except those of the handlers.
func onlyOpen(handlers ...string) func(string, arrival) bool {
	return func(handler string, _ arrival) bool { return !slices.Contains(handlers, handler) }
}

// none returns a function that closes the routes of the handlers.
func none(handlers ...string) func(string, arrival) bool {
	return func(handler string, _ arrival) bool { return slices.Contains(handlers, handler) }
}

// unpaid returns a function that closes the routes of the handlers to requests that paid less than
// cost.
func unpaid(cost int64, handlers ...string) func(string, arrival) bool {
	return func(handler string, a arrival) bool { return slices.Contains(handlers, handler) && a.cost < cost }
}

var (
	cargo    = []string{"/cargo/load", "/cargo/1/tracking"}
	admin    = []string{"/v1/admin/x"}
	generate = []string{"/v1/generate"}
	secret   = []string{"/api/secret"}
)

// byOtherNames are models of upstreams that know a path by names that Caddy's matchers do not know: behind a front controller,
// encoded twice, or in look-alike letters.
var byOtherNames = []string{
	"Symfony", "Symfony before 2025", "Laravel", "PHP, PATH_INFO", "IIS", "servlet container, lenient", "Spring, suffixes and slashes ignored",
	"decodes twice", "decodes thrice, ignores case",
}

// labSites has a site for each form of rules about paths.
var labSites = []labSite{
	{name: "protect", targets: cargo, closed: none("load", "tracking"), site: `keygate {
		protect /cargo/load /cargo/*/tracking
	}`},
	{name: "protect, HEAD", some: true, targets: cargo[:1], method: "HEAD", closed: none("load"), site: `keygate {
		protect GET /cargo/load
	}`},
	{name: "protect, POST", some: true, targets: cargo[:1], method: "POST", closed: none("load"), site: `keygate {
		protect POST /cargo/load
	}`},
	{name: "protect, patterns of other kinds", some: true, targets: slices.Concat(cargo[:1], admin, generate), closed: none("load", "admin", "generate"), site: `keygate {
		protect */load /v1/adm* /v[0-9]/gen*te
	}`},
	{name: "scope", targets: admin, key: true, closed: none("admin"), site: `keygate {
		scope /v1/admin/* admin
	}`},
	{name: "scope, the first line decides", some: true, targets: admin, key: true, closed: none("admin"), site: `keygate {
		scope /docs/* read
		scope /v1/admin/* admin
		scope /* read
	}`},
	{name: "scope_default deny", targets: secret, key: true, closed: onlyOpen("docs", "app", "health"), site: `keygate {
		scope /docs/* read
		scope /app/* read
		scope_default deny
	}`},
	{name: "cost", targets: generate, key: true, closed: unpaid(50, "generate"), site: `keygate {
		cost POST /v1/generate 50
		cost GET /v1/generate 50
	}`},
	{name: "cost, the first line decides", some: true, targets: generate, key: true, closed: unpaid(50, "generate"), site: `keygate {
		cost /docs/* 0
		cost /v1/generate 50
		cost /* 0
	}`},
	{name: "public", targets: slices.Concat(secret, cargo[:1]), closed: onlyOpen("docs", "health"), site: `keygate {
		public /health /docs/*
	}`},
	{name: "optional", some: true, targets: secret, closed: onlyOpen("app"), site: `keygate {
		optional /app/*
	}`},
	{name: "public above protect", some: true, targets: secret, closed: none("api"), site: `keygate {
		public /*
		protect /api/*
	}`},
	{name: "matcher", targets: secret, closed: none("api"), site: `keygate /api/*`},
	{name: "matcher, POST", some: true, targets: secret, method: "POST", closed: none("api"), site: `@m {
		path /api/*
		method POST
	}
	keygate @m`},
	{name: "matcher with not", targets: secret, closed: onlyOpen("docs", "health"), site: `@m not path /docs /docs/* /health
	keygate @m`},
	{name: "matcher with rules", some: true, targets: admin, key: true, closed: none("admin"), site: `keygate /v1/* {
		scope /v1/admin/* admin
	}`},
	{name: "branches", some: true, targets: secret, closed: none("api"), but: byOtherNames, site: `keygate_paths
	handle /api/* {
		keygate
		respond 418
	}`},
	{name: "paths, encoded_slash", some: true, targets: cargo, closed: none("load", "tracking"), asSent: true, site: `keygate {
		protect /cargo/load /cargo/*/tracking
		paths {
			allow encoded_slash /projects/*
		}
	}`},
	{name: "paths, parameters", some: true, targets: cargo, closed: none("load", "tracking"), asSent: true, site: `keygate {
		protect /cargo/load /cargo/*/tracking
		paths {
			allow parameters /matrix/*
		}
	}`},
	{name: "paths, as_sent", some: true, targets: cargo, closed: none("load", "tracking"), asSent: true, site: `keygate {
		protect /cargo/load /cargo/*/tracking
		paths {
			as_sent /s3/*
		}
	}`},
	{name: "paths, as_sent, scope", some: true, targets: admin, key: true, closed: none("admin"), asSent: true, site: `keygate {
		scope /v1/admin/* admin
		paths {
			as_sent /s3/*
			allow parameters /matrix/*
		}
	}`},
	{name: "paths, public", some: true, targets: secret, closed: onlyOpen("docs"), asSent: true, site: `keygate {
		public /docs/* /s3/* /projects/* /matrix/*
		paths {
			as_sent /s3/*
			allow encoded_slash /projects/*
			allow parameters /matrix/*
		}
	}`},
	{name: "paths, public as sent", some: true, targets: secret, closed: onlyOpen("docs"), asSent: true, site: `keygate {
		public /docs/*
		paths {
			as_sent /docs/*
		}
	}`},
	{name: "paths, all three on one", some: true, targets: secret, closed: onlyOpen("docs"), asSent: true, site: `keygate {
		public /docs/*
		paths {
			allow encoded_slash /docs/*
			allow parameters /docs/*
		}
	}`},
	{name: "paths, protected as sent", some: true, targets: cargo[:1], closed: none("load"), asSent: true, site: `keygate {
		protect /cargo/load
		paths {
			as_sent /cargo/*
			allow parameters /cargo/*
			allow encoded_slash /cargo/*
		}
	}`},
	{name: "paths, all as sent", some: true, targets: cargo[:1], closed: none("load"), asSent: true, site: `keygate {
		protect /cargo/load
		paths {
			as_sent /*
		}
	}`},
	{name: "paths, report", some: true, targets: cargo[:1], closed: none("load"), asSent: true, site: `keygate {
		protect /cargo/load
		paths {
			report
		}
	}`},
}
