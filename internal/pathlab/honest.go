package pathlab

import (
	"fmt"
	"net/url"
	"strings"
)

// Family is a set of paths of one kind that honest clients send.
type Family struct {
	Name string
	// Remedy is the line in a `paths` block that lets the family pass; "" where none is needed.
	Remedy string
	Paths  []string
}

// names are typical resource names.
var names = []string{
	"report", "Report-2026", "invoice_4711", "a", "A1", "v1.2.3", "v1.2.3-rc.1+build.5", "readme.md", "archive.tar.gz", ".well-known", ".env.example", "...x", "a..b", "x~y", "~alice", "@alice", "alice@example.org", "o'brien", "c++", "a,b", "a=b", "a&b", "$ref", "$metadata", "(1)", "f(x)", "wow!", "*", "a*b",
	"2026-11-30", "2026-11-30T10:00:00Z", "10:30", "urn:isbn:0451450523", "550e8400-e29b-41d4-a716-446655440000", "0x1f", "-1", "1,5", "12.5", "1e9", "a_b-c.d~e", "Z%C3%BCrich", "caf%C3%A9", "%E6%9D%B1%E4%BA%AC", "%F0%9F%98%80", "%D0%9C%D0%BE%D1%81%D0%BA%D0%B2%D0%B0", "%E0%A4%B9%E0%A4%BF", "%D9%85%D8%B1%D8%AD%D8%A8%D8%A7",
	"hello%20world", "a%20b%20c", "%22quoted%22", "%5Bid%5D", "%7Bid%7D", "a%7Cb", "a%5Eb", "%3Ctag%3E", "100%25", "50%25-off", "a%60b", "eyJhbGciOi.J9.x-_", "sha256:9f86d081884c7d65", "bucket-1", "node_modules", "index.php", "app.js", "style.min.css", "photo.JPG", "data.json", "feed.xml", "page.html", "x.php",
}

// Honest returns the paths that honest clients send, by family. Each path is spelled as its
// clients spell it.
func Honest() []Family {
	return []Family{
		{Name: "plain", Paths: product("/v1/%s", "/v1/things/%s", "/v1/things/%s/parts", "/v1/things/%s/parts/1.5", "/%s/x", "/files/%s/", "/a/b/c/%s", "/v1/%s?q=1&r=%%2F;x", "/v1/%s?next=http://x/../y", "/%s", "/repos/o/%s/git/refs/heads/main", "/v1/things/%s.json", "/users/a.b/%s.git/info/refs?service=git-upload-pack", "/v1/things/%s/x:run", "/graphql/%s?query={a(b:\"c\")}", "/%s/%[1]s")},
		{Name: "verbs", Paths: verbs()},
		{Name: "dates", Paths: dates()},
		{Name: "OData", Paths: []string{"/odata/Orders(1)", "/odata/Orders('a')/Items", "/odata/Orders(a=1,b=2)", "/odata/$metadata", "/odata/Orders/$count", "/odata/Orders(1)/$value", "/odata/$batch", "/odata/Orders(date=2026-11-30T10:00:00Z)"}},
		{Name: "Elasticsearch", Paths: []string{"/logs-2026.11.30/_search", "/_cat/indices", "/_bulk", "/logs-*/_search", "/a,b/_count", "/logs-*,-logs-old/_search", "/_search/scroll", "/index/_doc/1", "/_cluster/health", "/.kibana/_search", "/_nodes/_local/stats", "/my-index/_update/AX%20b"}},
		{Name: "Elasticsearch date arithmetic", Remedy: "allow encoded_slash /<*", Paths: dateMath()},
		{Name: "npm, plain", Paths: []string{"/lodash", "/lodash/-/lodash-4.17.21.tgz", "/@babel/core", "/@babel/core/-/core-7.0.0.tgz", "/-/v1/search?text=x", "/-/user/org.couchdb.user:alice", "/-/package/lodash/dist-tags", "/lodash/latest", "/lodash/%5E4.0.0"}},
		{Name: "npm", Remedy: "allow encoded_slash /@*", Paths: npm()},
		{Name: "GitLab", Remedy: "allow encoded_slash /api/v4/projects/*", Paths: gitlab()},
		{Name: "container registry", Paths: []string{"/v2/", "/v2/library/alpine/manifests/latest", "/v2/a/b/c/manifests/sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "/v2/a/blobs/uploads/", "/v2/_catalog"}},
		{Name: "Go module proxy", Paths: []string{"/github.com/!burnt!sushi/toml/@v/list", "/golang.org/x/net/@v/v0.1.0.mod", "/golang.org/x/net/@latest", "/gopkg.in/yaml.v3/@v/v3.0.1.zip"}},
		{Name: "Maven", Paths: []string{"/org/slf4j/slf4j-api/2.0.9/slf4j-api-2.0.9.jar", "/org/slf4j/slf4j-api/maven-metadata.xml.sha1", "/a/b/1.0-SNAPSHOT/b-1.0-20261130.100000-1.pom"}},
		{Name: "S3", Remedy: "as_sent /s3/*", Paths: s3()},
		{Name: "Matrix", Paths: []string{"/_matrix/client/v3/profile/@alice:example.org/displayname", "/_matrix/client/v3/rooms/!abc:example.org/messages", "/_matrix/client/v3/sync", "/_matrix/media/v3/download/example.org/AbC123", "/_matrix/client/v3/rooms/!abc:example.org/send/m.room.message/m1.2", "/_matrix/client/v3/profile/%40alice%3Aexample.org/avatar_url", "/_matrix/client/v3/rooms/%21abc%3Aexample.org/state", "/_matrix/client/v3/rooms/%21abc%3Aexample.org/event/%24xyz"}},
		{Name: "Matrix room aliases", Remedy: "as_sent /_matrix/client/*/directory/room/*", Paths: []string{"/_matrix/client/v3/directory/room/%23lab%3Aexample.org", "/_matrix/client/r0/directory/room/%23a.b%3Aexample.org"}},
		{Name: "matrix parameters", Remedy: "allow parameters /matrix/*", Paths: parameters()},
		{Name: "encoded as encodeURIComponent does", Paths: components()},
		{Name: "terms with a question mark or a number sign", Remedy: "as_sent /search/*", Paths: []string{"/search/what%3F", "/search/c%23", "/search/a%3Fb%23c", "/search/%23tag", "/search/why%3F%21", "/search/and%2For", "/search/tcp%2Fip"}},
		{Name: "names that end in a dot or a blank", Remedy: "as_sent /companies/*", Paths: []string{"/companies/Acme%20Inc.", "/companies/Acme%20Inc./staff", "/companies/Foo%20Ltd.", "/companies/x%20", "/companies/Dr./x"}},
		{Name: "URLs in a path", Remedy: "as_sent /fetch/*", Paths: []string{"/fetch/https://example.org/a", "/fetch/https%3A%2F%2Fexample.org%2Fa%3Fb", "/fetch/http://example.org//b", "/fetch/https:%2F%2Fexample.org"}},
		{Name: "backslashes", Remedy: "as_sent /shares/*", Paths: []string{"/shares/host%5Cdir%5Cfile.txt", "/shares/DOMAIN%5Calice"}},
		{Name: "Jenkins", Paths: []string{"/job/main/lastBuild/api/json", "/job/a%20b/1/console", "/job/x/job/y/build?token=1"}},
		{Name: "CouchDB design documents", Paths: []string{"/db/_design/app/_view/by-date", "/db/_changes", "/db/_local/abc", "/db/doc-1/a%20file.txt"}},
		{Name: "CouchDB identifiers with slashes", Remedy: "allow encoded_slash /db/*", Paths: []string{"/db/_design%2Fapp", "/db/a%2Fb", "/db/a%2Fb/attachment.txt"}},
		{Name: "Vault, Consul, etcd", Paths: []string{"/v1/secret/data/app/config", "/v1/kv/a/b?raw", "/v1/sys/health", "/v3/kv/range", "/v1/auth/token/lookup-self"}},
		{Name: "Kubernetes", Paths: []string{"/api/v1/namespaces/default/pods/web-0/log", "/apis/apps/v1/namespaces/x/deployments/y/scale", "/api/v1/namespaces/x/services/https:web:443/proxy/", "/openapi/v3/apis/apps/v1", "/healthz/etcd"}},
		{Name: "tiles and maps", Paths: []string{"/tiles/12/2200/1343.png", "/tiles/12/2200/1343@2x.png", "/wmts/1.0.0/layer/default/EPSG:3857/12/1/2.png", "/geocode/47.3769,8.5417.json"}},
		{Name: "points of a route", Remedy: "allow parameters /route/*", Paths: []string{"/route/8.54,47.37;8.55,47.38", "/route/v1/driving/13.38,52.51;13.39,52.52;13.42,52.52", "/route/v1/driving/13.388860,52.517037;13.397634,52.529407?overview=false"}},
	}
}

func product(formats ...string) []string {
	var all []string
	for _, f := range formats {
		for _, n := range names {
			all = append(all, fmt.Sprintf(f, n))
		}
	}
	return all
}

func verbs() []string {
	var all []string
	for _, verb := range []string{"cancel", "batchGet", "undelete", "runQuery", "generateContent", "streamGenerateContent", "setIamPolicy", "wait"} {
		for _, at := range []string{"/v1/operations/op-1", "/v1/projects/p/locations/eu", "/v1beta/models/gemini-1.5-pro", "/v1/things", "/v1/projects/p/databases/(default)/documents", "/v1/projects/p/topics/a.b"} {
			all = append(all, at+":"+verb, at+":"+verb+"?alt=json")
		}
	}
	return all
}

func dates() []string {
	var all []string
	for day := 1; day <= 30; day++ {
		all = append(all,
			fmt.Sprintf("/v1/rates/2026-11-%02d", day), fmt.Sprintf("/v1/rates/2026-11-%02d..2026-12-%02d", day, day), fmt.Sprintf("/v1/events/2026-11-%02dT%02d:30:00+01:00", day, day%24),
			fmt.Sprintf("/v1/events/2026-11-%02dT%02d:30:00.000Z", day, day%24), fmt.Sprintf("/logs/2026/11/%02d/", day), fmt.Sprintf("/v1/query/now-%dd", day), fmt.Sprintf("/v1/query/now-%dd,now+1h", day))
	}
	return all
}

func dateMath() []string {
	var all []string
	for _, name := range []string{"logstash", "logs", "metrics-app", "a.b", "x_y"} {
		for _, math := range []string{"{now/d}", "{now/M{yyyy.MM}}", "{now-1d/d}", "{now+1h/h{yyyy.MM.dd.HH|+12:00}}"} {
			for _, after := range []string{"/_search", "/_count", "", "/_doc/1"} {
				all = append(all, "/"+url.PathEscape("<"+name+"-"+math+">")+after)
			}
		}
	}
	return all
}

func npm() []string {
	var all []string
	for _, scope := range []string{"babel", "types", "angular", "my-org", "a.b", "x_y"} {
		for _, name := range []string{"core", "node", "preset-env", "a.b", "x_y"} {
			for _, f := range []string{"/@%s%%2f%s", "/@%s%%2F%s", "/@%s%%2f%s/latest", "/@%s%%2f%s/-/x-1.0.0.tgz", "/@%s%%2f%s?write=true"} {
				all = append(all, fmt.Sprintf(f, scope, name))
			}
		}
	}
	return all
}

func gitlab() []string {
	var all []string
	for _, group := range []string{"group", "my-org", "a.b", "x_y"} {
		for _, project := range []string{"project", "web-app", "sub%2Fproject", "a.b.c", "infra%2Fterraform%2Fmodules"} {
			for _, f := range []string{"/api/v4/projects/%s%%2F%s", "/api/v4/projects/%s%%2F%s/issues", "/api/v4/projects/%s%%2F%s/merge_requests/1/notes?page=2", "/api/v4/projects/%s%%2F%s/repository/files/src%%2Fmain.go/raw?ref=main", "/api/v4/projects/%s%%2F%s/repository/branches/feature%%2Fx", "/api/v4/projects/%s%%2f%s/packages/generic/x/1.0/y.tgz"} {
				all = append(all, fmt.Sprintf(f, group, project))
			}
		}
	}
	return all
}

func s3() []string {
	var all []string
	for _, key := range []string{"a//b", "/a", "a/./b", "a/../b", "dir/", "a b", "ü", "a;b", "a#b", "a?b", "a%b", "a%2Fb", `a\b`, "a.", "a/ /b", "x:y", "2026/11/30/log.gz", "a+b", "a=b&c", "photo (1).jpg", "日本", "a~b", "...", "a/.../b"} {
		all = append(all, "/s3/bucket/"+strings.ReplaceAll(url.PathEscape(key), "%2F", "/"))
	}
	return all
}

func parameters() []string {
	var all []string
	for _, p := range []string{";v=1", ";v=1;w=2", ";jsessionid=0A1B2C", ";lat=50;long=20", ";a", ";a=b.c", ";a=b%20c"} {
		for _, f := range []string{"/matrix/x%s", "/matrix/x%s/y", "/matrix/x/y%s?q=1", "/matrix/cars%s/year%s"} {
			all = append(all, strings.ReplaceAll(f, "%s", p))
		}
	}
	return all
}

// components returns paths whose segments are encoded as JavaScript's encodeURIComponent encodes
// them, and more strictly.
func components() []string {
	var all []string
	for _, s := range []string{"alice@example.org", "a:b", "a,b", "a=b", "a&b", "$x", "a+b", "user:1@h", "x=1,y=2", "(a)", "it's", "wow!", "a*", "~x", "a.b", "-", "_"} {
		var out strings.Builder
		for i := range len(s) {
			if c := s[i]; c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
				out.WriteByte(c)
			} else {
				fmt.Fprintf(&out, "%%%02X", c)
			}
		}
		for _, f := range []string{"/v1/users/%s", "/v1/users/%s/keys", "/v1/x?u=%s"} {
			all = append(all, fmt.Sprintf(f, out.String()))
			if low := strings.ToLower(out.String()); low != out.String() {
				all = append(all, fmt.Sprintf(f, low))
			}
		}
	}
	return all
}

// Equivalent returns target in the spelling that the gateway forwards. It decodes the escapes of
// unreserved characters and of ":@!$&'()*+,=", and writes other escapes in upper case. The query
// is unchanged.
func Equivalent(target string) string {
	path := cut(target, "?")
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		b, ok := unhex(path[i:])
		switch {
		case !ok:
			out.WriteByte(path[i])
			continue
		case b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("-._~:@!$&'()*+,=", b) >= 0:
			out.WriteByte(b)
		default:
			fmt.Fprintf(&out, "%%%02X", b)
		}
		i += 2
	}
	return out.String() + target[len(path):]
}
