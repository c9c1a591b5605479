package pathlab

import (
	"regexp"
	"strings"

	"github.com/nlnwa/whatwg-url/url"
)

var nodeModels = []Model{
	{"Node, new URL", func(target, _ string) (string, bool) { return whatwg(target) }},
	{"Node, new URL, decoded", func(target, _ string) (string, bool) {
		p, ok := whatwg(target)
		if !ok {
			return "", false
		}
		return unescape(p)
	}},
	{"Node, url.parse", func(target, _ string) (string, bool) { return legacyURL(target) }},
	{"Node, url.parse, decoded", func(target, _ string) (string, bool) {
		p, ok := legacyURL(target)
		if !ok {
			return "", false
		}
		return unescape(p)
	}},
	{"Express", func(target, _ string) (string, bool) {
		p, ok := parseURL(target)
		return strings.ToLower(trimSlash(p)), ok
	}},
	{"Express, decoded", func(target, _ string) (string, bool) {
		p, ok := parseURL(target)
		if !ok {
			return "", false
		}
		p, ok = unescape(p)
		return strings.ToLower(trimSlash(p)), ok
	}},
	{"Fastify", func(target, _ string) (string, bool) {
		p, ok := findMyWay(merge(originless(target)))
		return strings.ToLower(trimSlash(p)), ok
	}},
	{"restify", func(target, _ string) (string, bool) {
		p, ok := legacyURL(target)
		if !ok {
			return "", false
		}
		p, ok = findMyWay(originless(p))
		return trimSlash(p), ok
	}},
}

// whatwg returns the pathname of `new URL(req.url, "http://lab.test")` in Node. A target that
// begins with two slashes names a host there.
func whatwg(target string) (string, bool) {
	u, err := url.ParseRef("http://lab.test", latin1(target))
	if err != nil {
		return "", false
	}
	return u.Pathname(), true
}

var (
	legacyScheme = regexp.MustCompile(`(?i)^[a-z0-9.+-]+:`)
	// legacyUser matches a user and a host at the start of a path. url.parse takes such a start
	// for an authority.
	legacyUser = regexp.MustCompile(`^//[^@/]+@[^@/]+`)
	legacyPort = regexp.MustCompile(`:[0-9]*$`)
	// slashed are the schemes after which url.parse expects "//" (Node's slashedProtocol).
	slashed = map[string]bool{"http:": true, "https:": true, "ftp:": true, "gopher:": true, "file:": true, "ws:": true, "wss:": true}
)

const legacyBlanks = "\t\n\v\f\r \u00a0\ufeff"

// legacyURL returns the pathname of Node's `url.parse(req.url)`. Two slashes begin a host only
// after a scheme, or where an "@" follows.
func legacyURL(target string) (string, bool) {
	rest := strings.TrimFunc(latin1(target), func(r rune) bool { return r <= ' ' || r == 0xa0 || r == 0xfeff })
	head, tail := rest, ""
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		head, tail = rest[:i], rest[i:]
	}
	plain := !strings.Contains(head, "@") && !strings.Contains(rest, "#")
	rest = strings.ReplaceAll(head, `\`, "/") + tail
	if plain && strings.HasPrefix(rest, "/") && !strings.HasPrefix(rest, "///") && !strings.ContainsAny(rest, legacyBlanks) {
		return cut(rest, "?"), true
	}
	scheme := strings.ToLower(legacyScheme.FindString(rest))
	rest = rest[len(scheme):]
	slashes := (scheme != "" || legacyUser.MatchString(rest)) && strings.HasPrefix(rest, "//")
	if scheme == "javascript:" {
		slashes = false
	} else {
		if slashes {
			rest = rest[2:]
		}
		if slashes || scheme != "" && !slashed[scheme] {
			var ok bool
			if rest, ok = legacyHost(rest); !ok {
				return "", false
			}
		}
	}
	rest = cut(legacyEscape(rest), "?#")
	if rest == "" && slashed[scheme] {
		rest = "/"
	}
	return rest, rest != ""
}

// legacyHost removes the host at the start of s, as url.parse finds it. It returns false where
// url.parse throws.
func legacyHost(s string) (string, bool) {
	end := len(s)
	if i := strings.IndexAny(s, "/?#"); i >= 0 {
		end = i
	}
	// Node removes tabs and line ends from the host.
	host := strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(s[:end])
	s = host + s[end:]
	end = len(host)
	at := strings.LastIndexByte(host, '@')
	if at >= 0 {
		if _, ok := unescape(host[:at]); !ok {
			return "", false
		}
	}
	if i := strings.IndexAny(host[at+1:], " \"%';<>\\^`{|}"); i >= 0 {
		end = at + 1 + i
	}
	rest := s[end:]
	name := legacyPort.ReplaceAllString(s[at+1:end], "")
	if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") {
		if !strings.HasPrefix(rest, "/") {
			rest = "/" + rest
		}
		return rest, true
	}
	if i := strings.IndexByte(name, ':'); i >= 0 {
		rest = "/" + name[i:] + rest
	}
	return rest, true
}

var legacyEscape = strings.NewReplacer("\t", "%09", "\n", "%0A", "\r", "%0D", " ", "%20", `"`, "%22", "'", "%27", "<", "%3C", ">", "%3E",
	`\`, "%5C", "^", "%5E", "`", "%60", "{", "%7B", "|", "%7C", "}", "%7D").Replace

// parseURL returns the path by which Express routes. It is the target up to the query, or the
// result of url.parse where the target contains unusual characters.
func parseURL(target string) (string, bool) {
	if !strings.HasPrefix(target, "/") || strings.ContainsAny(latin1(target), "\t\n\f\r #\u00a0\ufeff") {
		return legacyURL(target)
	}
	return cut(target, "?"), true
}

var findMyWayOrigin = regexp.MustCompile(`^https?://.*?/`)

// originless removes the origin of a target in absolute form, as the router find-my-way does.
func originless(target string) string {
	if strings.HasPrefix(target, "/") || strings.HasPrefix(target, "*") {
		return target
	}
	return findMyWayOrigin.ReplaceAllString(target, "/")
}

// findMyWay returns the path that find-my-way, the router of Fastify and restify, looks up. A ";"
// ends the path too. Escapes that decodeURI keeps stay encoded.
func findMyWay(target string) (string, bool) {
	p := cut(target, "?;#")
	var out strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] != '%' {
			out.WriteByte(p[i])
			continue
		}
		b, ok := unhex(p[i:])
		if !ok {
			return "", false
		}
		if strings.IndexByte("#$&+,/:;=?@%", b) >= 0 {
			out.WriteString(p[i : i+3])
		} else {
			out.WriteByte(b)
		}
		i += 2
	}
	return out.String(), true
}
