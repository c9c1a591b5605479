package pathlab

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Targets are the paths from which Hostile derives spellings.
var Targets = []string{"/cargo/load", "/cargo/1/tracking", "/v1/admin/x", "/v1/generate", "/api/secret"}

// Hostile returns hostile spellings of a path, as request targets: those that some upstream might
// read as path, and many similar ones. It combines prefixes, inner spellings and suffixes: each
// with one of the others, or with every seventh where all is true. The order never changes, and no
// spelling occurs twice.
func Hostile(path string, all bool) []string {
	inner, before := inner(path), prefixes(path)
	list := append([]string{path}, odd(path)...)
	for _, s := range suffixes {
		list = append(list, path+s)
	}
	for i, p := range inner {
		list = append(list, p)
		list = append(list, joined(p, suffixes, i, all)...)
	}
	for i, b := range before {
		list = append(list, b+path)
		list = append(list, joined(b+path, suffixes, i, all)...)
		list = append(list, joined(b, inner, i, all)...)
	}
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(s string) bool {
		// A space or a line end would change the request line.
		again := seen[s] || s == "" || strings.ContainsAny(s, " \r\n")
		seen[s] = true
		return again
	})
}

// joined appends parts to start: the part with the index turn (modulo the length), or every
// seventh where all is true.
func joined(start string, parts []string, turn int, all bool) []string {
	if !all {
		return []string{start + parts[turn%len(parts)]}
	}
	var out []string
	for i := turn % 7; i < len(parts); i += 7 {
		out = append(out, start+parts[i])
	}
	return out
}

// suffixes are appended to a path.
var suffixes = []string{
	"?x", "/", "//", "///", "/.", "/./", "/..", "/x/..", "/x/../", "/%2e", "/%2e/", "/x/%2e%2e", "/x/%2E%2E/", "/x/%252e%252e", "/;", "/;x", "/;x/", "/.;/", "/..;/load",
	";", ";x", ";a=b", ";a=b;c=d", ";jsessionid=1", ";/", ";x/", "%3b", "%3bx", "%3Ba=b", "%3Bjsessionid=1", "%253b", "%25253Bx",
	".", "..", "...", "./", "../", "%2e", "%2E", "%2e%2e", "%252e", "%20", "%20/", "%20%20", "%09", "%0a", "%0A", "%0d%0a", "%0b", "%0c", "%1f", "%7f", "%85", "%a0", "%c2%a0", "%c2%85", "%e2%80%83", "%e3%80%80", "%2520",
	"+", "%2b", "\t", "\x01", "\x7f", "\u00a0", "\u3000", "\u200b", "%e2%80%8b", "%ef%bb%bf", "\ufeff",
	"%00", "%00/", "%00.json", "%00x", "%2500", "\x00", "%c0%80",
	".json", ".x", ".JSON", ".json/", ".json?x", ".json;x", ".xml", ".html", ".htm", ".php", ".aspx", ".do", ".action", ".js", ".css", ".txt", ".a.b", ".tar.gz", ".1", "%2ejson", "%2Ejson", "%252ejson", ".js%6fn", ".j%2fson", "..json", ".json.", ".%6ason",
	"?", "??", "?/", "?x=/../../docs/", "?;", "?#", "?_method=DELETE", "?path=/docs/", "%3f", "%3F", "%3fx", "%253f", "%3f/../docs/x", "%25253f",
	"#", "#x", "#/docs/", "#?x", "%23", "%23x", "%2523",
	"%2f", "%2F", "%2f%2f", "%2fx", "%252f", "%252F", "%25252f", "%5c", "%5C", `\`, `\\`, `\x`, "%255c", "%u002f", "%u005c", "%u2215", "%c0%af", "%C0%AF", "%e0%80%af", "%f0%80%80%af", "%c1%9c", "\xc0\xaf",
	"%ef%bc%8f", "\uff0f", "%ef%bc%8e", "\uff0e", "%e2%81%84", "\u2044", "%e2%88%95", "\u2215", "%e2%80%a4", "\u2024", "\u2025", "%ef%bc%9b", "\uff1b", "\uff3c",
	"%", "%2", "%zz", "%2z", "%%", "%%32%66", "%25", "%25zz", "%e9", "\xe9", "\xff", "%ff", "%fe%ff", "%ed%a0%80",
	"&x", "&", "=", "|", "^", "{", "}", "{x}", "'", `"`, "<", ">", "`", "~", "~1", "!", "*", ",", "$", "@", ":", ":80", "::$DATA", "%3a%3a$DATA", "%40", "%2a", "%21", "%24",
}

// prefixes returns texts that are put before path.
func prefixes(path string) []string {
	list := []string{
		// Authorities, and texts that some parsers take for one.
		"/", "//", "///", "//x", "///x", "////x", "/////x", "//x.y", "//x:1", "//x:80", "//x:", "//:1", "//x@y", "//x:y@z", "//@x", "//x@", "//@", "//x@y:1", "//x@y@z", "//lab.test", "//lab.test:80", "//127.0.0.1", "//[::1]", "//[::1]:80", "//x@[::1]",
		"//docs", "//docs/..", "//health", "//%78", "//x%40y", "//x@%79", "//x%2f", "/%2fx", "/%2f/x", "%2f%2fx", "/%5cx", "/%5c/x", `/\x`, `\\x`, `\/x`, `/\/x`, `//\x`, `/\\x`, `\x`, `\`, "/\t/x", "//x\t", "//-", "//x_y", "//1", "//0x7f.1",
		"//x;y", "//x?y", "//x#y", "//\uff0f", "/\uff0fx", "/%ef%bc%8fx", "/%c0%afx", "/./", "/.//x", "/x/..//y", "/..//x", "//./", "//..", "//../x", "///x@y", "/./\\x",
		// Segments that cancel each other, or that some servers ignore.
		"/.", "/./.", "/././.", "/..", "/../..", "/x/..", "/x/y/../..", "/x/./..", "/x//..", "//x/..", "/x/../.", "/%2e", "/%2E", "/%2e%2e", "/%2E%2e", "/.%2e", "/%2e.", "/x/%2e%2e", "/x/.%2E", "/x/%2e.", "/x/%252e%252e", "/x/%25252e%25252e",
		"/x/..%2f", "/x/..%2F.", "/x%2f..", "/x%2F%2e%2e", "/x%252f..", "/x/..%5c", `/x\..`, `/x/..\`, "/x%5c..", "/x%5c%2e%2e", "/x/..%255c", "/x/..%00", "/x/..%01", "/x/..%20", "/x/..%09", "/x/...", "/x/....", "/....",
		"/x/\uff0e\uff0e", "/x/%ef%bc%8e%ef%bc%8e", "/x/\u2025", "/x/%e2%80%a4%e2%80%a4", "/x/%c0%ae%c0%ae", "/x/\xc0\xae\xc0\xae", "/x/%e0%80%ae%e0%80%ae", "/x/%u002e%u002e", "/x/.\t.", "/x/.%0a.",
		// Parameters.
		"/;", "/;x", "/;a=b", "/;/", "/;x/;y", "/x;/..", "/x/..;", "/x/..;a=b", "/x/.;/..", "/x/;..", "/.;", "/..;", "/%3b", "/%3bx", "/x/..%3b", "/x/%2e%2e;", "/x/%2e%2e%3b", "/x/..;/y/..;", "/x;/%2e%2e;y",
		// Front controllers.
		"/index.php", "/index.php/", "/index.php/.", "/index.php//", "/x.php", "/app.php", "/app_dev.php", "/INDEX.PHP", "/Index.Php", "/index.php5", "/index.phtml", "/index%2ephp", "/%69ndex.php", "/index.ph%70", "/index.php;x", "/index.php%2f", "/index.php%00", "/index.php.",
		"/index.php/index.php", "/x/../index.php", "/x/index.php", "/index.php/x/..", "/./index.php", "//index.php", "//x/index.php", "/index.php%3f", "/index.php?", "/index.php?/", "/index.php?q=", "/index.cgi", "/index.pl", "/index.jsp", "/index.aspx", "/cgi-bin/php", "/?",
		// Absolute form.
		"http://lab.test", "http://lab.test:80", "http://x", "http://x:1", "http://u@lab.test", "http://u:p@lab.test", "http://[::1]", "HTTP://lab.test", "https://lab.test", "http://lab.test/", "http://lab.test//", "http://lab.test//x", "http://lab.test/.", "http://lab.test/x/..", "http://lab.test/;x", "http://lab.test/index.php", "http://lab.test?", "http://lab.test#", "http://lab.test\\x",
		"http:", "http:/", "http://", "http:///", "https:", "ftp://x", "ws://lab.test", "file://", "file:///x", "x:", "x:/", "x://y", "javascript:", "data:", "about:", "1:", ":", ":80", "://x", "lab.test", "lab.test:80", "x", "x@y", "@x", ".", "..", "./x", "../x", "*", "*/", "?", "??", "?x=", "#", "/#", "/?x", "/*", "/&", "/~", "/%", "/%zz", "/%25", "/%00", "%00", "\x00", "\t", "%09", "%20", "/%20", "/%09", "/+", "%2f", "%252f",
	}
	// Ways out of public and optional paths, and out of exceptions in a `paths` block.
	for _, open := range []string{"/docs", "/app", "/health", "/projects/x", "/matrix/x", "/s3/x", "/s3"} {
		for _, up := range []string{"/..", "/../", "/%2e%2e", "/.%2E", "/..%2f", "%2f..", "%2f%2e%2e", "/..%5c", `\..`, `/..\`, "/..;", "/..;x", ";/..", ";x/..", "/%2e%2e;", "/..%3b", "/%252e%252e", "%252f..", "/..%252f", "/./..", "//..", "/x/../..", "/x//..//..", "/..%00", "/\uff0e\uff0e", "/%c0%ae%c0%ae", "/..%ef%bc%8f", "/..?", "/..#", "%3f/..", "%23/..", "%00/..", ";%2f..", ";/%2e%2e", "/../index.php", "/../.", "/../x/..", "/..//x", "/../;x"} {
			list = append(list, open+strings.Repeat(up, 1+strings.Count(open[1:], "/")))
			if strings.Contains(open[1:], "/") {
				list = append(list, open+up)
			}
		}
		list = append(list, "/"+open, "//x"+open+"/..", open+"/index.php", open+"/x.php", open+"//", open+";x", open+"%2f", open+"%2f%2fx", open+"//x", open+"/%2fx", open+"%5c%5cx", open+`\\x`, open+"/http:/", open+"/http://x", open+"@x", open+"%40x")
	}
	// The path's own directory and dot segments, which matter to a front controller in that
	// directory.
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		list = append(list, path[:i]+"/..", path+"/..", path+"/../..", path+"/../x/..")
	}
	return list
}

// inner returns spellings that change the inside of the path.
func inner(path string) []string {
	segments := strings.Split(path[1:], "/")
	letters := path[1:]
	encode := func(s, format string, which func(i int, c byte) bool) string {
		var out strings.Builder
		for i := range len(s) {
			if which(i, s[i]) {
				fmt.Fprintf(&out, format, s[i])
			} else {
				out.WriteByte(s[i])
			}
		}
		return out.String()
	}
	all := func(int, byte) bool { return true }
	letter := func(_ int, c byte) bool { return c != '/' }
	first := func(i int, _ byte) bool { return i == 0 }
	odd := func(i int, c byte) bool { return i%2 == 1 && c != '/' }
	fullwidth := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r > ' ' && r < 0x7f && r != '/' {
				return r + 0xfee0
			}
			return r
		}, s)
	}
	list := []string{
		"/" + strings.ToUpper(letters), "/" + strings.ToUpper(letters[:1]) + letters[1:], "/" + strings.ToUpper(segments[0]) + path[1+len(segments[0]):],
		"/" + encode(letters, "%%%02x", first), "/" + encode(letters, "%%%02X", first), "/" + encode(letters, "%%%02x", letter), "/" + encode(letters, "%%%02X", letter), "/" + encode(letters, "%%%02x", odd), "/" + encode(letters, "%%%02x", all),
		encode(path, "%%%02x", all), "/" + encode(letters, "%%25%02x", first), "/" + encode(letters, "%%25%02x", letter), "/" + encode(letters, "%%2525%02x", first), "/" + encode(letters, "%%u%04x", first), "/" + encode(letters, "%%u%04X", letter),
		"/" + fullwidth(letters), "/" + fullwidth(letters[:1]) + letters[1:],
		path[:2] + "\t" + path[2:], path[:2] + "%09" + path[2:], path[:2] + "%00" + path[2:], path[:2] + "\u00ad" + path[2:], path[:2] + "%c2%ad" + path[2:], path[:2] + "%e2%80%8b" + path[2:], path[:2] + "%0d%0a" + path[2:], path[:2] + "\x7f" + path[2:], path[:2] + "%" + path[2:],
	}
	// Letters that become ASCII letters by case folding or by a "best fit" conversion.
	for _, pair := range [][2]string{{"s", "\u017f"}, {"s", "%c5%bf"}, {"k", "\u212a"}, {"k", "%e2%84%aa"}, {"i", "\u0131"}, {"i", "%c4%b0"}, {"a", "\u00e0"}, {"a", "%c3%a1"}, {"a", "\u0430"}, {"a", "\u00aa"}, {"o", "\u043e"}, {"o", "%c2%ba"}, {"g", "\u0121"}} {
		if strings.Contains(letters, pair[0]) {
			list = append(list, "/"+strings.ReplaceAll(letters, pair[0], pair[1]))
		}
	}
	separators := []string{"//", "///", "/./", "/././", "/x/../", "/x/y/../../", "/%2e/", "/%2E/", "/x/%2e%2e/", "/x/%2E./", "/;/", "/;x/", ";/", ";x/", ";a=b/", "/.;/", "/x/..;/", "/x;y/..;z/", "/..;/", "%2f", "%2F", "%2f/", "/%2f", "%2f%2f", "%252f", "%25252f", "%252F", "%2f./", "%2fx%2f..%2f", "%5c", "%5C", `\`, `\\`, `/\`, `\/`, "%255c", "%u002f", "%u005c", "%c0%af", "%e0%80%af", "%c1%9c", "\xc0\xaf", "%ef%bc%8f", "\uff0f", "\u2044", "%e2%81%84", "\u2215", "\uff3c", "%3b/", "%3bx/", "/%3b/", "%00/", "/%00", "/%20", "%20/", "./", "../", "/.%00/", "%09/", "/%09", "\t/", "/\t", ":", "|", "+", "%2b", "?/", "%3f/", "#/", "%23/", "/index.php/", ".php/", "/x.php/", "/.../", "/. /"}
	for _, s := range separators {
		list = append(list, "/"+strings.Join(segments, s))
		if len(segments) > 2 {
			last := len(segments) - 1
			list = append(list, "/"+strings.Join(segments[:last], "/")+s+segments[last], "/"+segments[0]+s+strings.Join(segments[1:], "/"))
		}
	}
	// A front controller without a slash after its name.
	for _, script := range []string{"/index.php", "/index%2ephp", "/x.php"} {
		list = append(list, script+path[1:], script+path[1:]+"/", script+"%2f"+path[1:], script+";"+path[1:], script+"."+path[1:])
	}
	return slices.DeleteFunc(list, func(s string) bool { return strings.ContainsFunc(s, unicode.IsSpace) && !strings.Contains(s, "\t") })
}

// odd returns targets that are very long, or empty, or not paths.
func odd(path string) []string {
	list := []string{"*", "/", "//", "///", "/.", "/..", "?", "/?", "/#", "#", "http://lab.test", "http://lab.test?x", "http://lab.test/", ".", "..", "x", `\`, "%2f", "%", ";", "/;", "/%00"}
	for _, n := range []int{30, 60, 300, 700, 1500, 4000} {
		list = append(list,
			strings.Repeat("/", n)+path[1:], strings.Repeat("/.", n)+path, "/x"+strings.Repeat("/x", n)+strings.Repeat("/..", n+1)+path,
			"/"+strings.Repeat("x", n)+"/.."+path, path+strings.Repeat("/", n), path+";"+strings.Repeat("x", n), path+"."+strings.Repeat("x", n), path+strings.Repeat("/x/..", n/3),
			strings.Repeat("/x/..", n/3)+path, "/"+strings.Repeat("%2e/", n/3)+path[1:], strings.Repeat("/;", n/2)+path, "//"+strings.Repeat("x", n)+path, strings.Repeat("/index.php", n/10)+path, path+"?"+strings.Repeat("/..", n/3), path+strings.Repeat("%20", n/3), path+strings.Repeat("%2525", n/5))
	}
	return list
}
