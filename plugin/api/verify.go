package api

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
)

func (c *call) verify() error {
	return c.verifyWith(func(j inspect.Checker) verifyFunc { return j.Verify })
}

func (c *call) explain() error {
	return c.verifyWith(func(j inspect.Checker) verifyFunc { return j.Explain })
}

type verifyFunc func(ctx context.Context, keyspace string, r inspect.Request) (inspect.Result, error)

func (c *call) verifyWith(by func(inspect.Checker) verifyFunc) error {
	if c.h.opts.Verifier == nil {
		return unavailable("Keys can't be checked here yet; try again.")
	}
	o, err := c.body(false)
	if err != nil {
		return err
	}
	var q inspect.Request
	key, method, path, cost, ip := o.string("key"), o.string("method"), o.string("path"), o.int("cost"), o.string("ip")
	q.Key, q.Method, q.Path = key.Value, method.Value, path.Value
	if q.Method != "" && !token(q.Method) {
		o.fault("method", "must be a method, such as GET")
	}
	if q.Path != "" && !strings.HasPrefix(q.Path, "/") {
		o.fault("path", "must begin with /")
	}
	if cost.Set && !cost.Null {
		if cost.Value < 0 || cost.Value > management.MaxCredits {
			o.fault("cost", "must not be negative, and at most 9007199254740991")
		}
		q.Cost = &cost.Value
	}
	if ip.Value != "" {
		if q.IP, err = netip.ParseAddr(ip.Value); err != nil {
			o.fault("ip", "must be an address, such as 192.0.2.7 or 2001:db8::1")
		}
		q.IP = q.IP.Unmap()
	}
	if err := o.done(); err != nil {
		return err
	}
	if err := c.confine(&q); err != nil {
		return err
	}
	result, err := by(c.h.opts.Verifier)(c.ctx, c.keyspace, q)
	if err != nil {
		return err
	}
	return c.result(&result)
}

// confine replaces the key of another tenant by an unknown key if the caller may see only one tenant. So the response is
// that of an unknown key, and the other tenant spends nothing.
func (c *call) confine(q *inspect.Request) error {
	if c.actor.Tenant == "" || q.Key == "" {
		return nil
	}
	known, err := c.h.opts.Verifier.Explain(c.ctx, c.keyspace, inspect.Request{Key: q.Key})
	if err == nil && known.KeyID != "" && known.Tenant != c.actor.Tenant {
		q.Key, err = c.ks.Grammar.Generate("")
	}
	return err
}

// token reports whether s is a token (RFC 9110, section 5.6.2).
func token(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	}) < 0
}

func verifyBody() fields {
	return fields{
		"key":    aText("The full key. Default: the request has no key.").orNull(),
		"method": aText("Default: GET.").orNull(),
		"path":   aText("The path as a client sends it. Default: no path rules apply.").orNull(),
		"cost":   aNumber("The cost in quotas and credits. Default and null: the cost of the path's rule.").with("minimum", 0).orNull(),
		"ip":     aText("The client's address.").orNull(),
	}
}

var (
	_ = document("POST /v1/verify", doc{
		Summary: "Checks a request that does not pass through the proxy, and spends its cost.", Body: verifyBody(),
		Answers: map[int]any{http.StatusOK: inspect.Result{}},
	})
	_ = document("POST /v1/explain", doc{
		Summary: "Checks a request, spends nothing, and shows the result of each check.", Body: verifyBody(),
		Answers: map[int]any{http.StatusOK: inspect.Result{}},
	})
)

// resultBuffers holds buffers for encoded results.
var resultBuffers = sync.Pool{New: func() any { return new([]byte) }}

// maxBuffer bounds the size in bytes of a buffer that is kept.
const maxBuffer = 16 << 10

// result sends the result of a check.
func (c *call) result(r *inspect.Result) error {
	kept := resultBuffers.Get().(*[]byte)
	b := append(r.AppendJSON((*kept)[:0]), '\n')
	h := c.w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(b)
	if cap(b) <= maxBuffer {
		*kept = b
		resultBuffers.Put(kept)
	}
	return nil
}
