package pathlab

import (
	"regexp"
	"strings"
)

var phpModels = []Model{
	{"PHP, parse_url", func(target, _ string) (string, bool) { return phpPath(target) }},
	{"PHP, parse_url, decoded", func(target, _ string) (string, bool) {
		p, ok := phpPath(target)
		return lenient(p), ok
	}},
	{"Symfony", func(target, _ string) (string, bool) {
		return lenient(pathInfo(target, "/index.php", true)), true
	}},
	{"Symfony before 2025", func(target, _ string) (string, bool) {
		return lenient(pathInfo(target, "/index.php", false)), true
	}},
	{"Symfony in a directory", func(target, _ string) (string, bool) {
		if !strings.HasPrefix(lenient(requestURI(target)), "/cargo/") {
			return "", false // The modelled application only has paths below /cargo/, so no other path is looked up.
		}
		return "/cargo" + lenient(pathInfo(target, "/cargo/index.php", true)), true
	}},
	{"Laravel", func(target, _ string) (string, bool) {
		return "/" + strings.Trim(lenient(strings.Trim(pathInfo(target, "/index.php", false), "/")), "/"), true
	}},
	{"PHP, PATH_INFO", func(target, _ string) (string, bool) {
		p, _ := dots(merge(lenient(cut(afterOrigin(target), "?#"))))
		if m := phpScript.FindStringSubmatch(p); m != nil {
			return m[1], true
		}
		return p, true
	}},
}

// phpScript matches a script in the root directory and the path behind it. Web servers split paths
// for FastCGI this way.
var phpScript = regexp.MustCompile(`(?is)^/[^/]*\.php[0-9]?(/.*)$`)

// phpPath returns `parse_url($target, PHP_URL_PATH)`. Two slashes begin a host, and so do many
// texts with a colon.
func phpPath(target string) (string, bool) {
	colon := strings.IndexByte(target, ':')
	s := target
	switch {
	case colon > 0:
		scheme := strings.Trim(strings.ToLower(s[:colon]), "abcdefghijklmnopqrstuvwxyz0123456789+-.") == ""
		after := s[colon+1:]
		switch {
		case !scheme && after != "" && colon < len(cut(s, "?#")):
			return phpPort(s, colon)
		case !scheme && strings.HasPrefix(s, "//"):
			return phpHost(s[2:], false)
		case !scheme:
			return phpRest(s)
		case after == "":
			return "", false
		case after[0] != '/':
			digits := len(after) - len(strings.TrimLeft(after, "0123456789"))
			if (digits == len(after) || after[digits] == '/') && digits < 6 {
				return phpPort(s, colon)
			}
			return phpRest(after)
		case strings.HasPrefix(after, "//"):
			if strings.EqualFold(s[:colon], "file") && strings.HasPrefix(after, "///") {
				if len(after) > 4 && after[4] == ':' {
					return phpRest(after[3:])
				}
				return phpRest(after[2:])
			}
			return phpHost(after[2:], false)
		default:
			return phpRest(after)
		}
	case colon == 0:
		return phpPort(s, 0)
	case strings.HasPrefix(s, "//"):
		return phpHost(s[2:], false)
	}
	return phpRest(s)
}

// phpPort continues parse_url where the text after the colon may be a port.
func phpPort(s string, colon int) (string, bool) {
	after := s[colon+1:]
	digits := min(len(after)-len(strings.TrimLeft(after, "0123456789")), 6)
	switch {
	case digits > 0 && digits < 6 && (digits == len(after) || after[digits] == '/'):
		if digits == 5 && after[:5] > "65535" {
			return "", false
		}
		return phpHost(strings.TrimPrefix(s, "//"), true)
	case after == "":
		return "", false
	case strings.HasPrefix(s, "//"):
		return phpHost(s[2:], false)
	}
	return phpRest(s)
}

// phpHost removes the host at the start of s. port reports whether phpPort has checked the port.
// It returns false where parse_url fails or finds no path.
func phpHost(s string, port bool) (string, bool) {
	host := cut(s, "/?#")
	rest := s[len(host):]
	host = host[strings.LastIndexByte(host, '@')+1:]
	name := host
	if !strings.HasPrefix(host, "[") || !strings.HasSuffix(host, "]") {
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			name = host[:i]
			digits := host[i+1:]
			if !port && digits != "" {
				n := len(digits) - len(strings.TrimLeft(digits, "0123456789"))
				if len(digits) > 5 || n == 0 && strings.Trim(digits[:1], "+- \t\n\v\f\r") != "" || n == 5 && digits > "65535" {
					return "", false
				}
			}
		}
	}
	if name == "" || rest == "" {
		return "", false
	}
	return phpRest(rest)
}

func phpRest(s string) (string, bool) {
	if s == "" {
		return "", true
	}
	p := cut(cut(s, "#"), "?")
	// parse_url replaces control characters by underscores.
	p = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(p, "\ufffd"))
	return p, p != ""
}

// requestURI returns Symfony's REQUEST_URI for a target, without the query.
func requestURI(target string) string {
	if strings.HasPrefix(target, "/") {
		target = cut(target, "#")
	} else if p, ok := phpPath(target); ok {
		target = p
	}
	target = cut(target, "?")
	if target != "" && target[0] != '/' {
		return "/" + target
	}
	return target
}

// pathInfo returns Symfony's path info for a front controller at script. rooted adds a missing
// slash at the start, as releases since November 2025 do.
func pathInfo(target, script string, rooted bool) string {
	uri := requestURI(target)
	p := uri[len(baseURL(uri, script)):]
	switch {
	case p == "":
		return "/"
	case p[0] != '/' && rooted:
		return "/" + p
	}
	return p
}

// baseURL returns the start of uri that Symfony takes for the front controller.
func baseURL(uri, script string) string {
	if p, ok := encodedPrefix(uri, script); ok {
		return p
	}
	directory := script[:strings.LastIndexByte(script, '/')+1]
	if p, ok := encodedPrefix(uri, directory); ok {
		return strings.TrimRight(p, "/")
	}
	if i := strings.Index(uri, script); i > 0 {
		return uri[:i+len(script)]
	}
	if i := strings.Index(lenient(uri), script[len(directory):]); i <= 0 {
		return ""
	}
	return uri[:min(len(uri), len(script))]
}

// encodedPrefix returns the start of s that decodes to prefix.
func encodedPrefix(s, prefix string) (string, bool) {
	if !strings.HasPrefix(lenient(s), prefix) {
		return "", false
	}
	i := 0
	for range len(prefix) {
		if _, ok := unhex(s[i:]); ok {
			i += 3
		} else {
			i++
		}
	}
	return s[:i], true
}
