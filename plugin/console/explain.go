package console

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/keygate-dev/keygate/plugin/inspect"
)

// explainPage shows whether a request would be rejected, and why.
type explainPage struct {
	Form   *form
	Result *inspect.Result
	// Past is the reason for which an earlier request was rejected.
	Past    string
	Methods []string
}

var methods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}

func (c *call) showExplain() error {
	if c.h.opts.Verifier == nil {
		return errNoPage
	}
	f := newForm(nil)
	q := c.r.URL.Query()
	for _, name := range []string{"method", "path", "ip"} {
		f.Set(name, q.Get(name))
	}
	return c.render(http.StatusOK, "explain", "Why was this refused?", explainPage{Form: f, Past: q.Get("reason"), Methods: methods})
}

func (c *call) explain() error {
	if c.h.opts.Verifier == nil {
		return errNoPage
	}
	f := newForm(c.r.PostForm)
	q := inspect.Request{Key: strings.TrimSpace(f.Value("key")), Method: f.Value("method"), Path: strings.TrimSpace(f.Value("path"))}
	f.forget("key")
	if q.Path != "" && !strings.HasPrefix(q.Path, "/") {
		f.fault("path", "must begin with /, such as /v1/jobs")
	}
	if ip := strings.TrimSpace(f.Value("ip")); ip != "" {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			f.fault("ip", "must be an address, such as 192.0.2.7 or 2001:db8::1")
		}
		q.IP = a.Unmap()
	}
	p := explainPage{Form: f, Methods: methods}
	if f.Failed() {
		return c.render(http.StatusUnprocessableEntity, "explain", "Why was this refused?", p)
	}
	if err := c.confine(&q); err != nil {
		return err
	}
	result, err := c.h.opts.Verifier.Explain(c.ctx, c.h.opts.Keyspace, q)
	if err != nil {
		e, err := f.reject(err)
		if err != nil {
			return err
		}
		return c.render(e.Status, "explain", "Why was this refused?", p)
	}
	p.Result = &result
	return c.render(http.StatusOK, "explain", "Why was this refused?", p)
}

// confine replaces the key of another tenant by an unknown key if the session may see only one
// tenant.
func (c *call) confine(q *inspect.Request) error {
	if c.actor.Tenant == "" || q.Key == "" {
		return nil
	}
	known, err := c.h.opts.Verifier.Explain(c.ctx, c.h.opts.Keyspace, inspect.Request{Key: q.Key})
	if err != nil || known.KeyID == "" || known.Tenant == c.actor.Tenant {
		return err
	}
	ks, err := c.h.manager.Keyspace(c.h.opts.Keyspace)
	if err != nil {
		return err
	}
	q.Key, err = ks.Grammar.Generate("")
	return err
}
