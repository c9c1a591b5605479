package usage

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Log configures how the last requests of a keyspace's keys are kept. Immutable.
type Log struct {
	// Keep is how many requests of a key are kept, at least 1. For is how long each request is kept.
	Keep int
	For  time.Duration
	// Address is how much of the client's address is kept.
	Address AddressForm
	// Route keeps the route instead of the path. The route is the pattern of the rule that applied or, if no rule applied, the
	// first segment of the path.
	Route bool
	// Clean returns a text in which all keys are hidden.
	Clean func(string) string
}

// AddressForm is how much of an address is kept.
type AddressForm uint8

const (
	AddressFull   AddressForm = iota
	AddressPrefix             // the address's network: /24 of IPv4, /48 of IPv6
	AddressOff
)

// maxWaiting bounds the requests of all keys that wait to be written. Each takes about 200 bytes and its path. Beyond
// maxWaiting, newer requests of a key replace its older ones, and a key without waiting requests keeps none.
const maxWaiting = 1 << 17

// ring holds the last requests of one key, at most Keep.
type ring struct {
	entries []entry
	// next is the index of the next request, once the ring is full.
	next int
	log  *Log
}

// entry is a request that is not written yet.
type entry struct {
	at                          int64 // end of the request in Unix nanoseconds
	took                        time.Duration
	method, path, rawPath, rule string
	addr                        netip.Addr
	status                      int
	reason                      gateway.Reason
}

// remember keeps a request. The caller holds c.mu.
func (c *Counter) remember(r *Request, at int64, took time.Duration) {
	if c.recent == nil {
		if c.tracker.waiting.Load() >= maxWaiting {
			return
		}
		c.recent = rings.Get().(*ring)
		c.tracker.listRecent(c)
	}
	g := c.recent
	g.log = r.Log
	var e *entry
	if len(g.entries) < r.Log.Keep && (len(g.entries) == 0 || c.tracker.waiting.Load() < maxWaiting) {
		g.inOrder()
		g.entries = append(g.entries, entry{})
		e = &g.entries[len(g.entries)-1]
		c.tracker.waiting.Add(1)
	} else {
		g.next %= len(g.entries)
		e = &g.entries[g.next]
		g.next++
	}
	e.at, e.took, e.status, e.addr = at, took, r.Status, r.Addr
	e.method, e.path, e.rawPath, e.rule = r.Method, r.Path, r.RawPath, r.Rule
	e.reason = r.Reason
	if r.Observed != gateway.Allowed {
		e.reason = r.Observed
	}
}

// inOrder rotates the entries so that the oldest is the first.
func (g *ring) inOrder() {
	if g.next %= max(len(g.entries), 1); g.next == 0 {
		return
	}
	turned := append(append(make([]entry, 0, cap(g.entries)), g.entries[g.next:]...), g.entries[:g.next]...)
	g.entries, g.next = turned, 0
}

// release empties the ring, and gives it back for reuse.
func (g *ring) release() {
	clear(g.entries)
	g.entries, g.next, g.log = g.entries[:0], 0, nil
	rings.Put(g)
}

// RequestRecord is one of a key's last requests, as the API shows it.
type RequestRecord struct {
	// Time is when the request ended.
	Time   time.Time `json:"time"`
	Method string    `json:"method"`
	// Path is the path when the request reached the gateway, without its query and with keys
	// hidden.
	Path   string `json:"path"`
	Status int    `json:"status"`
	// Reason is "allowed", or why the request was rejected, or the reason that was only observed.
	Reason string `json:"reason"`
	// Latency is in milliseconds.
	Latency float64 `json:"latency_ms"`
	// Address is the client's address or network; null where none is kept.
	Address *string `json:"address"`
}

// maxPath and maxMethod bound the texts that are kept of a request, in bytes.
const (
	maxPath   = 1024
	maxMethod = 32
)

// record returns the stored form of the entry.
func (e *entry) record(log *Log) RequestRecord {
	r := RequestRecord{
		Time: time.Unix(0, e.at).UTC().Truncate(time.Microsecond), Method: clip(log.Clean(e.method), maxMethod), Status: e.status, Reason: e.reason.String(),
		Latency: float64(e.took.Microseconds()) / 1000,
	}
	if log.Route {
		r.Path = route(e)
	} else {
		u := url.URL{Path: e.path, RawPath: e.rawPath}
		r.Path = u.EscapedPath()
	}
	r.Path = clip(log.Clean(r.Path), maxPath)
	if a := addressText(e.addr, log.Address); a != "" {
		r.Address = &a
	}
	return r
}

// route returns the pattern of the rule that applied or, where none did, the path's first segment
// followed by /*.
func route(e *entry) string {
	if e.rule != "" {
		return e.rule
	}
	first, _, more := strings.Cut(strings.TrimPrefix(e.path, "/"), "/")
	if !more {
		return "/*" // A path of one segment may be any text, such as an id, so it is not shown.
	}
	u := url.URL{Path: "/" + first}
	return u.EscapedPath() + "/*"
}

func addressText(a netip.Addr, form AddressForm) string {
	if !a.IsValid() || form == AddressOff {
		return ""
	}
	a = a.Unmap().WithZone("")
	if form == AddressFull {
		return a.String()
	}
	bits := 48
	if a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(a, bits).Masked().String()
}

// clip cuts a text to most bytes, and marks a cut with an ellipsis.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// chunk returns the ring's requests as they are stored, oldest first.
func (g *ring) chunk(c *Counter) (Chunk, error) {
	g.inOrder()
	records := make([]RequestRecord, len(g.entries))
	for i := range g.entries {
		records[i] = g.entries[i].record(g.log)
	}
	b, err := json.Marshal(records)
	if err != nil {
		return Chunk{}, err
	}
	newest := records[len(records)-1].Time
	ch := Chunk{
		Keyspace: c.keyspace, Key: c.key, Newest: newest, Expires: newest.Add(g.log.For),
		Count: len(records), Entries: b,
	}
	// When this chunk is written, the store drops requests of the key beyond Keep. That is done for the first chunk of a counter,
	// because it is unknown how many requests the store has, and then for every 16th chunk.
	if c.chunks%chunksPerPrune == 0 || len(records) >= g.log.Keep {
		ch.Keep, c.chunks = g.log.Keep, 0
	}
	c.chunks++
	return ch, nil
}

// chunksPerPrune is after how many chunks of a key the store drops the key's oldest requests.
const chunksPerPrune = 16
