package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash/crc32"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// product is one of the five products, with the keys that its page describes.
type product struct {
	name string
	// prefix is the prefix of keys that are created without an environment.
	prefix string
	// random is the number of characters after the prefix. The last checksum characters of these
	// are the checksum.
	random, checksum int
	// header is the header for keys; "" for Authorization: Bearer.
	header string
	// plan is a plan that lets requests pass, and path is a path that needs a key.
	plan, path string
}

var (
	convilyn = product{name: "convilyn", prefix: "ck_", random: 40, checksum: 6, plan: "business", path: "/api/v1/workflows/catalog"}
	convoy   = product{name: "convoy", prefix: "convoy_sk_", random: 32, header: "X-API-Key", plan: "standard", path: "/cargo/load"}
	vilvik   = product{name: "vilvik", prefix: "vlk_", random: 40, checksum: 6, plan: "free", path: "/v1/models"}
	converra = product{name: "converra", prefix: "sk_live_", random: 32, checksum: 6, plan: "free", path: "/api/v1/prompts"}
	knouds   = product{name: "knouds", prefix: "knouds_live_", random: 32, checksum: 6, header: "X-API-Key", plan: "business", path: "/api/workflows"}

	products = []product{convilyn, convoy, vilvik, converra, knouds}
)

// site is a product that a gateway serves.
type site struct {
	*gateway
	product
	// mount is the path prefix of the product.
	mount string
}

// startProduct starts a gateway with the shipped configuration of a product.
func startProduct(t testing.TB, p product) *site {
	t.Helper()
	return &site{gateway: start(t, shipped(t, "configs/"+p.name+".Caddyfile"), newUpstream(t)), product: p}
}

// call sends a request with a key in the product's place for keys; "" for no key.
func (s *site) call(t testing.TB, method, path, key string, header ...string) *answer {
	t.Helper()
	if key != "" {
		header = append(header, s.credential(key)...)
	}
	return s.send(t, method, s.mount+path, "", header...)
}

// credential returns the name and value of the header that carries a key.
func (s *site) credential(key string) []string {
	if s.header != "" {
		return []string{s.header, key}
	}
	return []string{"Authorization", "Bearer " + key}
}

// manage calls the management API for the keyspace of the product.
func (s *site) manage(t testing.TB, method, path string, body any, header ...string) *answer {
	t.Helper()
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	return s.api(t, method, path+sep+"keyspace="+s.name, body, header...)
}

// tenant creates a tenant on the product's plan. fields adds or replaces fields.
func (s *site) tenant(t testing.TB, slug string, fields record) record {
	t.Helper()
	body := record{"slug": slug, "plan": s.plan}
	for name, v := range fields {
		body[name] = v
	}
	return s.manage(t, "POST", "/v1/tenants", body).want(http.StatusCreated).json()
}

// key is a key that a test has created.
type key struct {
	id, full string
	record   record
}

// key creates a key of a tenant.
func (s *site) key(t testing.TB, tenant string, fields record) key {
	t.Helper()
	body := record{"name": "test"}
	for name, v := range fields {
		body[name] = v
	}
	r := s.manage(t, "POST", "/v1/tenants/"+tenant+"/keys", body).want(http.StatusCreated).json()
	return s.made(t, r)
}

// made returns the key in a response that contains a full key.
func (s *site) made(t testing.TB, r record) key {
	t.Helper()
	k := key{r.text("id"), r.text("key"), r}
	if k.id == "" || k.full == "" {
		t.Fatalf("no key in %v", r)
	}
	s.keep(k.full)
	return k
}

// post calls an action of a key, such as revoke, and returns the response, which must be 200.
func (s *site) post(t testing.TB, k key, verb string, body any) record {
	t.Helper()
	return s.manage(t, "POST", "/v1/keys/"+k.id+"/"+verb, body).want(http.StatusOK).json()
}

// patch changes a tenant or a key, and returns the new record.
func (s *site) patch(t testing.TB, path string, body record) record {
	t.Helper()
	return s.manage(t, "PATCH", path, body).want(http.StatusOK).json()
}

// read returns the record at a path of the management API.
func (s *site) read(t testing.TB, path string) record {
	t.Helper()
	return s.manage(t, "GET", path, nil).want(http.StatusOK).json()
}

// balance returns a tenant's balance of credits.
func (s *site) balance(t testing.TB, slug string) int64 {
	t.Helper()
	n, ok := s.read(t, "/v1/tenants/"+slug+"/credits")["balance"].(float64)
	if !ok {
		t.Fatal("no balance")
	}
	return int64(n)
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// randomText returns n random base62 characters.
func randomText(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	for i, c := range b {
		b[i] = base62[int(c)%len(base62)]
	}
	return string(b)
}

// checksum returns the last n characters of a key: the CRC-32 of body, the characters after the
// prefix. GitHub's tokens have the same checksum.
func checksum(body string, n int) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	b := bytes.Repeat([]byte{'0'}, n)
	for i := n - 1; i >= 0 && sum > 0; i-- {
		b[i] = base62[sum%62]
		sum /= 62
	}
	return string(b)
}

// unknown returns a key of the right shape that does not exist.
func (p product) unknown() string {
	body := randomText(p.random - p.checksum)
	return p.prefix + body + checksum(body, p.checksum)
}

// shaped checks that a full key has the product's shape.
func (p product) shaped(t testing.TB, full string) {
	t.Helper()
	body, ok := strings.CutPrefix(full, p.prefix)
	if !ok || len(body) != p.random || strings.Trim(body, base62) != "" {
		t.Errorf("%s: a key of %d characters that begins %.6q", p.name, len(full), full)
		return
	}
	if at := len(body) - p.checksum; body[at:] != checksum(body[:at], p.checksum) {
		t.Errorf("%s: the checksum is %s, want %s", p.name, body[at:], checksum(body[:at], p.checksum))
	}
}

// shownOnce checks that the full key can't be read again: from no path of the API, no command and
// no stored byte, in any reversible encoding.
func (s *site) shownOnce(t *testing.T, k key) {
	t.Helper()
	var reads strings.Builder
	for _, path := range []string{
		"/v1/keys/" + k.id, "/v1/keys", "/v1/tenants", "/v1/tenants/" + k.record.text("tenant"),
		"/v1/tenants/" + k.record.text("tenant") + "/keys", "/v1/tenants/" + k.record.text("tenant") + "/credits",
		"/v1/audit", "/v1/audit?key=" + k.id, "/v1/audit/verify", "/v1/plans", "/v1/status",
	} {
		reads.WriteString(s.manage(t, "GET", path, nil).want(http.StatusOK).body)
	}
	if bytes.Contains(s.stored(), []byte(k.full)) {
		t.Error("the key is stored while the gateway runs")
	}
	reads.WriteString(s.manage(t, "POST", "/v1/explain", record{"key": k.full, "method": "GET", "path": s.path}).want(http.StatusOK).body)
	for _, args := range [][]string{{"key", "get", k.id}, {"key", "list", "--json"}} {
		r := s.keygate(t, append(args, "--keyspace", s.name)...).exits(0)
		reads.WriteString(r.out + r.err)
	}
	if !strings.Contains(reads.String(), k.id) {
		t.Error("the key is in no read at all")
	}
	// Reads may show the prefix and the last four characters, and nothing else of the key.
	secret := strings.TrimPrefix(k.full, s.prefix)
	hidden := k.full[12 : len(k.full)-4-s.checksum]
	if len(hidden) < 16 {
		t.Fatalf("only %d characters are hidden", len(hidden))
	}
	if strings.Contains(reads.String(), hidden[:8]) {
		t.Error("a read shows more of the key than its prefix and last four")
	}
	// When a gateway has stopped, everything is written.
	s.stop()
	stored := s.stored()
	for what, form := range map[string]string{
		"the key": hidden[:8], "its hexadecimal": hex.EncodeToString([]byte(hidden[:8])),
		"its base64": base64.RawStdEncoding.EncodeToString([]byte(secret))[:16],
	} {
		if bytes.Contains(stored, []byte(form)) {
			t.Errorf("%s is stored", what)
		}
	}
	digest := sha256.Sum256([]byte(k.full))
	if !bytes.Contains(stored, digest[:]) {
		t.Error("the key's SHA-256 is not stored: the test looks at something else")
	}
	s.gateway.start()
}

// after returns the time d from now in the API's format.
func after(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }

// query returns a path with query parameters. values holds names and values in turn.
func query(path string, values ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(values); i += 2 {
		q.Add(values[i], values[i+1])
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}
