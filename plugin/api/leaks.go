package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/leak"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/leaks"
)

var (
	_ = document("POST /v1/leaks", doc{
		Summary:     "Reports a leaked key. Anyone who holds the key may do so.",
		Description: "No token is needed. The response is the same whether or not the key exists. The tenant's plan states what happens to the key (on_leak).",
		Body: fields{
			"key":    aText("The full key."),
			"url":    aText("The URL at which it was found.").orNull(),
			"source": aText("The scanner or person that found it, for people.").orNull(),
		},
		Required: []string{"key"},
		Answers:  map[int]any{http.StatusAccepted: nil},
		Errors:   map[int][]string{http.StatusUnprocessableEntity: {management.CodeInvalidField}},
	})
	_ = document("POST /v1/leaks/github", doc{
		Summary: "Accepts the reports of GitHub's secret scanning, in the format of its partner program.",
		Description: "The body is a list of {token, type, url, source}. It must be signed, in the headers " + leak.KeyIdentifier + " and " + leak.KeySignature +
			", by one of the keys in leaks { github_keys }. Without that option the path does not exist.",
		Answers: map[int]any{http.StatusOK: []leak.Verdict{}},
		Errors: map[int][]string{
			http.StatusBadRequest: {management.CodeInvalidJSON}, http.StatusForbidden: {"invalid_signature"},
			http.StatusNotFound: {management.CodeNotFound}, http.StatusRequestEntityTooLarge: {"body_too_large"},
		},
	})
)

var errNotSigned = &management.Error{
	Status: http.StatusForbidden, Code: "invalid_signature",
	Detail: "The report is not signed by a known key of GitHub. If GitHub has new keys, fetch the file of github_keys again.",
}

// postLeak accepts a report of a leaked key from any client. Its answer does not depend on whether
// the key exists.
func (c *call) postLeak() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	key, url, source := o.string("key"), o.string("url"), o.string("source")
	if key.Value == "" {
		o.fault("key", "must be the full key")
	}
	if err := o.done(); err != nil {
		return err
	}
	addr := c.address()
	c.actor = management.Actor{Name: "anonymous", Via: "api"}
	if addr.IsValid() {
		c.actor.IP = addr.String()
	}
	l := leaks.Leak{Key: key.Value, URL: url.Value, Source: source.Value}
	keyspaces, known := c.searchedKeyspaces(l.Key), false
	for _, keyspace := range keyspaces {
		id, err := c.owner(c.ctx, keyspace, l.Key)
		switch {
		case err != nil:
			known = true // The look-up failed, so the key may exist: it must not count as a failure of the client.
			sum := sha256.Sum256([]byte(l.Key))
			c.h.leaks.ReportUnchecked(keyspace+"/"+string(sum[:]), func(ctx context.Context) (bool, error) {
				_, wrote, err := c.reportLeakIn(ctx, keyspace, l)
				return wrote, err
			})
		case id != "":
			known = true
			c.h.leaks.Report(c.ctx, c.actor, addr, keyspace, id, l)
		}
	}
	if !known {
		// Verify counts the unknown key as a failure of the client's address, as a request with
		// this key would.
		for _, keyspace := range keyspaces {
			if _, err := c.h.opts.Verifier.Verify(c.ctx, keyspace, inspect.Request{Key: l.Key, IP: addr}); err != nil {
				c.h.log.Warn("an unknown key that was reported as leaked could not be counted as a failure of the client's address", "error", err)
			}
		}
	}
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

// postGitHubLeaks accepts a report of GitHub's secret scanning.
func (c *call) postGitHubLeaks() error {
	var keys *leak.Keys
	if c.h.opts.GitHubKeys != nil {
		keys = c.h.opts.GitHubKeys()
	}
	if keys == nil {
		return noPath()
	}
	b, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return errBodyTooLarge
	case err != nil:
		return invalidJSON("The body could not be read to its end.")
	}
	if err := keys.Verify(c.r.Header.Get(leak.KeyIdentifier), c.r.Header.Get(leak.KeySignature), b); err != nil {
		return errNotSigned
	}
	var tokens []leak.Token
	if err := json.Unmarshal(b, &tokens); err != nil {
		// The JSON error could repeat a key from the body.
		return invalidJSON("The body is not a list of tokens.")
	}
	c.actor = management.Actor{Name: "GitHub secret scanning", Via: "api"}
	if addr := c.address(); addr.IsValid() {
		c.actor.IP = addr.String()
	}
	verdicts := make([]leak.Verdict, 0, len(tokens))
	for i := range tokens {
		t := &tokens[i]
		known, err := c.reportLeak(leaks.Leak{Key: t.Token, URL: t.URL, Source: t.Source})
		if err != nil {
			return err // After this error, GitHub sends the report again. The leaks recorded until now stay recorded.
		}
		verdicts = append(verdicts, t.Verdict(known))
	}
	return c.json(http.StatusOK, verdicts)
}

// searchedKeyspaces returns the names of the keyspaces that the key may belong to, by its shape.
func (c *call) searchedKeyspaces(key string) []string {
	if c.ks == nil {
		return c.h.leaks.KeyspacesOf(key)
	}
	if c.ks.Grammar.Match(key) == nil {
		return nil
	}
	return []string{c.keyspace}
}

// reportLeak records the leak of a key, and acts on it, in every keyspace that knows the key. It
// reports whether any keyspace knows the key.
func (c *call) reportLeak(l leaks.Leak) (known bool, err error) {
	for _, keyspace := range c.searchedKeyspaces(l.Key) {
		here, _, err := c.reportLeakIn(c.ctx, keyspace, l)
		known = known || here
		if err != nil {
			return known, err
		}
	}
	return known, nil
}

// reportLeakIn does the work of reportLeak for one keyspace. wrote reports whether it has written
// to the store.
func (c *call) reportLeakIn(ctx context.Context, keyspace string, l leaks.Leak) (known, wrote bool, err error) {
	id, err := c.owner(ctx, keyspace, l.Key)
	if err != nil || id == "" {
		return false, false, err
	}
	wrote, err = c.h.leaks.Record(ctx, c.actor, keyspace, id, l)
	var rejected *management.Error
	if errors.As(err, &rejected) && rejected.Status == http.StatusNotFound {
		return false, wrote, nil // The key was deleted in the meantime.
	}
	return err == nil, wrote, err
}

// owner returns the id of a key in the keyspace, or "" if the keyspace does not know the key.
func (c *call) owner(ctx context.Context, keyspace, key string) (id string, err error) {
	if c.h.opts.Verifier == nil {
		return "", unavailable("Keys can't be checked here yet; try again.")
	}
	found, err := c.h.opts.Verifier.Explain(ctx, keyspace, inspect.Request{Key: key})
	if err == nil && found.KeyID == "" && found.Reason == gateway.Unavailable.String() {
		err = unavailable("Keys can't be looked up now; try again.")
	}
	return found.KeyID, err
}

// address returns the client's address, or the zero Addr if the address is unknown.
func (c *call) address() netip.Addr {
	if c.h.opts.Address != nil {
		if addr := c.h.opts.Address(c.r); addr.IsValid() {
			return addr.Unmap()
		}
	}
	host, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return gateway.Addr(host)
}
