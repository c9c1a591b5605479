package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
)

// replayRequest is a request as the bytes that are sent.
type replayRequest struct {
	method, raw string
	host        string
	limited     bool   // limited reports whether the key of the request can be used only a few times.
	odd         bool   // odd reports whether the path is spelled in a way that clients don't use.
	from        net.IP // the client's address
}

// request returns request i of a replay. The same seed and i give the same request. secrets are
// the keys by "keyspace/name".
func (c replayConfig) request(seed uint64, i int, secrets map[string]string) replayRequest {
	g := generator{rand.New(rand.NewPCG(seed, uint64(i))), pick(rand.New(rand.NewPCG(seed, uint64(i)^1<<32)), c.products), secrets}
	// One request in twelve is plain, so that both versions accept it. Only plain requests use
	// limited keys: both versions then count the same requests.
	plain := g.IntN(12) == 0
	method := g.method()
	honest := g.honestPath()
	target := honest
	if plain {
		method = pick(g.Rand, []string{"GET", "POST"})
	} else {
		target = g.target(honest)
	}
	query, limited := "", false
	var headers []string
	add := func(lines ...string) { headers = append(headers, lines...) }
	if plain {
		keys := []string{"limited", "limited", "full"}
		if g.credits {
			keys = append(keys, "poor")
		}
		name := pick(g.Rand, keys)
		limited = name != "full"
		add(g.credentialIn(g.secret(name)))
	} else {
		query = g.query()
		for range 1 + g.IntN(30)/29 { // A request rarely has two credentials, and usually one.
			line, parameter := g.credential()
			if line != "" {
				add(line)
			}
			if parameter != "" {
				query = "?" + parameter + strings.Replace(query, "?", "&", 1)
			}
		}
		for range g.IntN(4) {
			add(g.extraHeader())
		}
		if g.IntN(5) == 0 {
			add("Want: " + pick(g.Rand, []string{"200 public", "200 vary", "200 star", "200 nostore", "200 limits", "200 credits", "200 cookie", "200 cors",
				"204", "301 location", "304", "404", "500", "503", "500 credits"}))
		}
	}
	host := pick(g.Rand, append(g.hosts, "api.example.com")[:max(1, len(g.hosts))])
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s%s HTTP/1.1\r\nHost: %s\r\n", method, target, query, host)
	body := ""
	if method != "GET" && method != "HEAD" && method != "OPTIONS" && g.IntN(3) > 0 || g.IntN(40) == 0 {
		lines, text := g.body()
		add(lines...)
		body = text
	}
	g.Shuffle(len(headers), func(i, j int) { headers[i], headers[j] = headers[j], headers[i] })
	if !strings.Contains(strings.ToLower(strings.Join(headers, "\n")), "connection:") {
		add("Connection: close")
	}
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n" + body)
	// Failures are limited by client address, so most requests come from an address of their own.
	from := net.IPv4(127, 1, byte(i>>8), byte(i))
	if g.IntN(20) == 0 {
		from = net.IPv4(127, 0, 0, 9)
	}
	return replayRequest{method, b.String(), host, limited, target != honest, from}
}

// generator makes the parts of one request at random.
type generator struct {
	*rand.Rand
	product
	secrets map[string]string
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func (g generator) method() string {
	if g.IntN(4) > 0 {
		return pick(g.Rand, []string{"GET", "GET", "GET", "POST", "POST", "HEAD"})
	}
	return pick(g.Rand, []string{"PUT", "PATCH", "DELETE", "OPTIONS", "OPTIONS", "PROPFIND", "PURGE", "get", "TRACE", "QUERY"})
}

func (g generator) honestPath() string {
	p := strings.ReplaceAll(pick(g.Rand, g.paths), " ", "%20")
	if g.IntN(4) == 0 && !strings.Contains(p, ".") {
		p = strings.TrimSuffix(p, "/") + "/" + pick(g.Rand, []string{"7", "a-b_c.d", "x%20y", "%C3%BC", "a:b@c", "42/sub", "a,b", "(1)", "f.json"})
	}
	return g.under + p
}

// target returns the path unchanged for two requests of three, and in another spelling for the
// third.
func (g generator) target(path string) string {
	if g.IntN(3) > 0 {
		return path
	}
	at := g.IntN(len(path))
	slash := strings.LastIndexByte(path, '/')
	switch g.IntN(24) {
	case 0:
		return "/" + path
	case 1:
		return path[:slash] + "/" + path[slash:]
	case 2:
		return path + "/"
	case 3:
		return path[:slash] + "/." + path[slash:]
	case 4:
		return path[:slash] + "/x/.." + path[slash:]
	case 5:
		return path[:slash] + "/%2e%2e" + path[slash:]
	case 6:
		return path[:slash] + "%2F" + path[slash+1:]
	case 7:
		return path[:slash] + "%5C" + path[slash+1:]
	case 8:
		return path[:slash] + "\\" + path[slash+1:]
	case 9:
		return path[:at] + fmt.Sprintf("%%%02x", path[at]) + path[at+1:]
	case 10:
		return path[:at] + fmt.Sprintf("%%25%02x", path[at]) + path[at+1:]
	case 11:
		return path + ";jsessionid=1"
	case 12:
		return path + pick(g.Rand, []string{"%3Bv=1", "%3Fa", "%23a", "%00", "%0a", "%20", ".", "%7F", "%C3", "%c0%af", "%ff", "%E2%88%95"})
	case 13:
		return strings.ToUpper(path)
	case 14:
		return path + ".json"
	case 15:
		return "/index.php" + path
	case 16:
		return "http://api.example.com" + path
	case 17:
		return "//evil.example.com" + path
	case 18:
		return pick(g.Rand, []string{"*", "x" + path, "", "/%", "/%zz", "http://", "?a=b"})
	case 19:
		return path + "/" + strings.Repeat("a/", g.IntN(40))
	case 20:
		return path + pick(g.Rand, []string{"|", "[1]", "{x}", "^", "`", "\"", "<>", "ü", "'", "$x", "!", "~", "&a=b", "=", "+"})
	case 21:
		return path + pick(g.Rand, []string{"%21", "%24%26", "%27", "%28%29", "%2A", "%2B", "%2C", "%3D", "%3A", "%40", "%7E", "%5B", "%7b", "%22", "%e4%bd%a0"})
	case 22:
		return path[:slash] + "/..;" + path[slash:]
	default:
		return path[:slash] + strings.ToUpper(path[slash:])
	}
}

func (g generator) query() string {
	if g.IntN(5) < 3 {
		return ""
	}
	return pick(g.Rand, []string{"?", "?a=b", "?a=b&a=c", "?q=x%20y+z", "?a;b", "?%zz", "?_method=DELETE", "?_method=get&x=1", "?url=http://x/y?z", "?a=%00", "?key=" + strconv.Itoa(g.IntN(99))})
}

func (g generator) secret(name string) string { return g.secrets[g.keyspace+"/"+name] }

// credentialIn returns the header line with the key that the product's clients send.
func (g generator) credentialIn(key string) string {
	if g.header {
		return "X-API-Key: " + key
	}
	return "Authorization: Bearer " + key
}

// credential returns a credential as a header line or as a query parameter. Both may be empty.
func (g generator) credential() (header, parameter string) {
	full := g.secret("full")
	switch n := g.IntN(40); {
	case n < 16:
		return g.credentialIn(full), ""
	case n < 20:
		return g.credentialIn(g.secret("weaker")), ""
	case n < 28:
		name := pick(g.Rand, []string{"revoked", "disabled", "unknown", "rotated", "successor", "expired", "elsewhere", "suspended", "basic"})
		if key := g.secret(name); key != "" {
			return g.credentialIn(key), ""
		}
		return "", ""
	case n < 32:
		return "", ""
	}
	switch g.IntN(16) {
	case 0:
		return g.credentialIn(full[:len(full)-1] + "_"), ""
	case 1:
		return g.credentialIn(full[:20]), ""
	case 2:
		return g.credentialIn("sk_other_0123456789"), ""
	case 3:
		return g.credentialIn(full + "," + full), ""
	case 4:
		return g.credentialIn(full + "\r\n" + g.credentialIn(full)), ""
	case 5:
		return "X-API-Key: " + full + "\r\nAuthorization: Bearer " + full, ""
	case 6:
		return "X-API-Key: " + full + "\r\nAuthorization: Bearer " + g.secret("weaker"), ""
	case 7:
		return "authorization: bearer  " + full, ""
	case 8:
		return "Authorization: Basic dXNlcjpwYXNz\r\n" + g.credentialIn(full), ""
	case 9:
		return "Authorization: Basic dXNlcjpwYXNz", ""
	case 10:
		return "Authorization: " + full, ""
	case 11:
		return "Cookie: a=b; session_key=" + full + "; c=d", ""
	case 12:
		return "", "api_key=" + full
	case 13:
		return "Authorization: Bearer a.users.token", ""
	case 14:
		return "x-api-KEY: " + full, ""
	default:
		return "X-API-Key:", ""
	}
}

func (g generator) extraHeader() string {
	return pick(g.Rand, []string{
		"Accept-Encoding: gzip", "Accept: application/json", "Accept: text/html", "User-Agent: replay/1", "User-Agent:", "Accept-Language: de",
		"X-Tenant-ID: forged", "x_tenant_id: forged", "X-Key.Scopes: admin", "X-Key-ID: forged", "X-Tenant-Plan: forged", "X-Tenant-Anything: kept",
		"X-HTTP-Method-Override: DELETE", "X-Original-URL: /admin", "X-Rewrite-URL: /admin", "X-HTTP-Method: PUT",
		"Cookie: session=1", "Cookie: a=b; c=d; session_key=", "Origin: https://app.example.com", "Origin: https://other.example.com", "Origin: null",
		"Origin: https://app.example.com\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-api-key",
		"Origin: https://app.example.com\r\nAccess-Control-Request-Method: POST", "Access-Control-Request-Method: GET",
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Connection: close, X-Api-Key",
		"Connection: close, X-Tenant-ID", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1", "X-Real-IP: 10.0.0.1", "If-None-Match: \"x\"", "Range: bytes=0-1",
		"Referer: https://app.example.com/x?api_key=1", "Content-Type: application/json", "TE: trailers", "Cache-Control: no-cache", "Via: 1.1 proxy",
		"X-Forwarded-Host: evil.example.com", "X-Forwarded-Proto: https", "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Request-ID: 1",
	})
}

// body returns a body and the header lines that describe it.
func (g generator) body() (lines []string, body string) {
	text := pick(g.Rand, []string{"", "x", `{"a":1}`, "_method=DELETE&a=b", "a=b", `{"_method":"PUT"}`, strings.Repeat("0123456789", 30)})
	if g.IntN(2) == 0 {
		lines = append(lines, "Content-Type: "+pick(g.Rand, []string{"application/x-www-form-urlencoded", "application/json", "text/plain"}))
	}
	switch g.IntN(6) {
	case 0:
		return append(lines, "Transfer-Encoding: chunked"), chunked(text) + "0\r\n\r\n"
	case 1:
		return append(lines, "Transfer-Encoding: chunked", "Trailer: X-Sum, X-Key-ID"), chunked(text) + "0\r\nX-Sum: 1\r\nX-Key-ID: forged\r\n\r\n"
	default:
		return append(lines, "Content-Length: "+strconv.Itoa(len(text))), text
	}
}

func chunked(text string) string {
	if text == "" {
		return ""
	}
	return fmt.Sprintf("%x\r\n%s\r\n", len(text), text)
}
