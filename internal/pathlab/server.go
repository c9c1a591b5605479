package pathlab

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"unicode/utf8"
)

var serverModels = []Model{
	{"Go, ServeMux", serveMux},
	{"nginx", func(target, _ string) (string, bool) { return nginxPath(afterOrigin(target), true) }},
	{"nginx, merge_slashes off", func(target, _ string) (string, bool) { return nginxPath(afterOrigin(target), false) }},
	{"Tomcat", func(target, _ string) (string, bool) { return tomcat(target, false) }},
	{"servlet container, lenient", func(target, _ string) (string, bool) { return tomcat(target, true) }},
	{"Spring, suffixes and slashes ignored", func(target, _ string) (string, bool) {
		p, ok := tomcat(target, true)
		return dropExtension(trimSlash(p)), ok
	}},
	{"IIS", func(target, _ string) (string, bool) { return windows(target) }},
	{"decodes, then resolves", func(target, _ string) (string, bool) {
		p, ok := dots(merge(lenient(cut(afterOrigin(target), "?#"))))
		return p, ok
	}},
	{"decodes twice", func(target, _ string) (string, bool) {
		p, _ := dots(merge(lenient(lenient(cut(afterOrigin(target), "?#")))))
		return cut(p, "\x00"), true
	}},
	{"decodes thrice, ignores case", func(target, _ string) (string, bool) {
		p := lenient(lenient(lenient(cut(afterOrigin(target), "?#"))))
		p, _ = dots(merge(strings.ReplaceAll(p, `\`, "/")))
		return strings.ToLower(strings.ToUpper(trimSlash(cut(p, "\x00?#;")))), true
	}},
}

// serveMux runs the real software: Go's request parser and ServeMux.
func serveMux(target, method string) (string, bool) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: lab.test\r\n\r\n")))
	if err != nil {
		return "", false
	}
	route := ""
	mux := http.NewServeMux()
	for _, pattern := range []string{"/cargo/load", "/cargo/{id}/tracking", "/v1/admin/", "/v1/generate", "/api/", "/docs/", "/app/", "/health", "/"} {
		mux.HandleFunc(pattern, func(_ http.ResponseWriter, r *http.Request) { route = r.URL.Path })
	}
	mux.ServeHTTP(httptest.NewRecorder(), r)
	return route, route != ""
}

// nginxPath returns the path by which nginx looks up a location. nginx decodes, merges and
// resolves in one pass, so encoded separators count.
func nginxPath(target string, mergeSlashes bool) (string, bool) {
	if !strings.HasPrefix(target, "/") || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", false
	}
	var p strings.Builder
	for i := 0; i < len(target) && target[i] != '?' && target[i] != '#'; i++ {
		if target[i] != '%' {
			p.WriteByte(target[i])
			continue
		}
		b, ok := unhex(target[i:])
		if !ok || b == 0 {
			return "", false
		}
		p.WriteByte(b)
		i += 2
	}
	path := p.String()
	if mergeSlashes {
		path = merge(path)
	}
	path, ok := dots(path)
	// The "$" in a location's regular expression also matches before a final line end.
	return strings.TrimSuffix(path, "\n"), ok
}

// tomcat returns the path that a servlet container maps. The container drops parameters from each
// segment, decodes the path, then resolves dot segments. lenientSlash accepts encoded slashes and
// backslashes as slashes.
func tomcat(target string, lenientSlash bool) (string, bool) {
	p := dropParameters(cut(afterOrigin(strings.Trim(target, "\t\v\f")), "?"))
	decoded, ok := unescape(p)
	if !lenientSlash && (!ok || strings.Count(decoded, "/") != strings.Count(p, "/") || strings.ContainsAny(decoded, "\\\x00")) {
		return "", false
	}
	if !strings.HasPrefix(decoded, "/") {
		return "", false
	}
	if lenientSlash {
		decoded = cut(lookAlikes(strings.ReplaceAll(decoded, `\`, "/")), "\x00")
	}
	decoded, ok = dots(merge(decoded))
	return trimSlash(decoded), ok
}

// windows returns the path as IIS and the Windows file system read it. "%u002f" is an escape, and
// a backslash is a slash. Dots and spaces at the end of a segment are ignored.
func windows(target string) (string, bool) {
	p := cut(afterOrigin(target), "?")
	var out strings.Builder
	for i := 0; i < len(p); i++ {
		if i+6 <= len(p) && p[i] == '%' && lower(p[i+1]) == 'u' {
			hi, ok1 := unhex("%" + p[i+2:i+4])
			lo, ok2 := unhex("%" + p[i+4:i+6])
			if ok1 && ok2 {
				out.Write(utf8.AppendRune(nil, rune(hi)<<8|rune(lo)))
				i += 5
				continue
			}
		}
		if b, ok := unhex(p[i:]); ok {
			out.WriteByte(b)
			i += 2
			continue
		}
		out.WriteByte(p[i])
	}
	p = cut(strings.ReplaceAll(lookAlikes(out.String()), `\`, "/"), "\x00")
	p, _ = dots(merge(p))
	p = eachSegment(p, func(s string) string { return strings.TrimRight(s, ". \t\u00a0") })
	return strings.ToLower(trimSlash(p)), true
}
