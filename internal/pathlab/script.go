package pathlab

import (
	"regexp"
	"strings"
)

var scriptModels = []Model{
	{"Rails", func(target, _ string) (string, bool) {
		return rails(cut(afterOrigin(target), "?#")), true
	}},
	{"Rails, WEBrick", func(target, _ string) (string, bool) {
		p := cut(afterOrigin(strings.Trim(target, "\t\v\f")), "?#")
		return rails(p), true
	}},
	{"Rails, decoded by the server", func(target, _ string) (string, bool) {
		p, ok := dots(lenient(cut(afterOrigin(target), "?")))
		return rails(p), ok
	}},
	{"Sinatra", func(target, _ string) (string, bool) {
		p := strings.ReplaceAll(lenient(cut(afterOrigin(target), "?#")), `\`, "/")
		p, _ = dots(merge("/" + p))
		return trimSlash(p), true
	}},
	{"Flask", func(target, _ string) (string, bool) {
		scheme, host, p := splitURL(target)
		if scheme == "" && host != "" {
			p = "/" + host + p
		}
		return "/" + strings.TrimLeft(lenient(p), "/"), true
	}},
	{"WSGI", func(target, _ string) (string, bool) {
		p := cut(strings.Trim(target, "\t\v\f"), "?")
		if strings.Contains(p, "://") {
			p = afterOrigin(p)
		}
		return lenient(p), true
	}},
	{"WSGI, slashes at the start ignored", func(target, _ string) (string, bool) {
		return "/" + strings.TrimLeft(lenient(cut(afterOrigin(target), "?#")), "/"), true
	}},
	{"Python, urlsplit", func(target, _ string) (string, bool) {
		_, _, p := splitURL(target)
		return lenient(p), true
	}},
}

var (
	railsFormat = regexp.MustCompile(`\.[^/.?]+$`)
	lowerEscape = regexp.MustCompile(`%[a-f0-9]{2}`)
)

// rails returns the path that the router of Rails looks up. Rails appends "(.:format)" to each
// route by default, so an extension is ignored.
func rails(p string) string {
	p = merge("/" + p)
	p = lowerEscape.ReplaceAllStringFunc(trimSlash(p), strings.ToUpper)
	return railsFormat.ReplaceAllString(p, "")
}

var urlScheme = regexp.MustCompile(`^[A-Za-z0-9+.-]+:`)

// splitURL returns scheme, host and path as Python's urlsplit does. Two slashes begin a host; tabs
// and line ends are removed.
func splitURL(target string) (scheme, host, path string) {
	s := strings.NewReplacer("\t", "", "\r", "", "\n", "").Replace(strings.TrimLeft(target, "\x00\x01\x02\x03\x04\x05\x06\x07\x08\t\n\v\f\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f "))
	scheme = urlScheme.FindString(s)
	s = s[len(scheme):]
	if strings.HasPrefix(s, "//") {
		host = cut(s[2:], "/?#")
		s = s[2+len(host):]
	}
	return scheme, host, cut(s, "?#")
}
