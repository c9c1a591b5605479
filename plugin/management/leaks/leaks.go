// Package leaks handles reports that a key was found in a public place: it records them, and does with the key what its
// tenant's plan says.
package leaks

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/internal/turns"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// What a plan does with keys that are reported leaked.
const (
	Revoke     = "revoke"
	Disable    = "disable"
	ReportOnly = "report"
)

const (
	// maxLeakText bounds what is kept of where a key was found, in bytes.
	maxLeakText = 1000
	// In leakWindow so many reports of one key are recorded, and each place once: whoever holds the
	// key may report it without end.
	leakWindow       = 24 * time.Hour
	maxLeaksInWindow = 10
	// maxLeakSearch bounds among how many events of the key they are looked for.
	maxLeakSearch = 100
)

// Leak is a report that a key was found where everybody can read it.
type Leak struct {
	// Key is the full key.
	Key string
	// URL says where it was found and Source by what, such as "content" or "npm"; each may be
	// empty. The keyspace's keys are taken out of them.
	URL, Source string
}

// Reporter handles the reports of a manager's keys. Safe for concurrent use.
type Reporter struct {
	manager *management.Manager
	// reports limits how many reports are handled at once.
	reports *turns.Queue
	queue   queue
	log     *slog.Logger
}

// New returns the Reporter of a manager. A process needs only one, which limits its work.
func New(m *management.Manager) *Reporter {
	return &Reporter{manager: m, reports: turns.New(reportRules), log: m.Logger()}
}

// reportRules are how many reports of leaks are dealt with at once, and how many a second that are written down.
var reportRules = turns.Rules{Slots: 2, Rate: 5, Burst: 50, Waiting: 256, PerClient: 64}

// KeyspacesOf returns the names, sorted, of the keyspaces of which key has a shape.
func (rep *Reporter) KeyspacesOf(key string) []string {
	v := rep.manager.View()
	if v == nil {
		return nil
	}
	var names []string
	for name, ks := range v.Keyspaces {
		if ks.Grammar.Match(key) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Record records that the key with that id leaked, which l.Key is a secret of, and then does with
// it what its tenant's plan says. Of a secret that a rotation ended, the leak is recorded and the key left
// alone. A key that is done with already, and a leak that is known, are no error. wrote reports whether anything was
// left to be written: a leak that was recorded and dealt with costs the store's writers nothing.
func (rep *Reporter) Record(ctx context.Context, a management.Actor, keyspace, id string, l Leak) (wrote bool, err error) {
	settled := false
	err = rep.manager.Read(ctx, a, keyspace, func(c *management.Call) error {
		k, t, err := c.FindKey(id, false)
		if err != nil {
			return err
		}
		known, err := leakRecorded(c, k, cleanLeakText(c, l.Source), cleanLeakText(c, l.URL))
		if err != nil || !known {
			return err
		}
		on, err := onLeak(c, k, t, l)
		settled = on == ReportOnly || !k.RevokedAt.IsZero() || on == Disable && k.Disabled
		return err
	})
	if err != nil || settled {
		return false, err
	}
	return true, rep.record(ctx, a, keyspace, id, l)
}

// onLeak returns what is to be done with the key.
func onLeak(c *management.Call, k *gateway.Key, t *gateway.Tenant, l Leak) (on string, err error) {
	on = ReportOnly
	// A plan that is gone says nothing, and that must not keep the leak from being recorded.
	if p := c.Keyspace.Plans[t.Plan]; p != nil && p.OnLeak != "" {
		on = p.OnLeak
	}
	outlived, err := secretEnded(c, k, l.Key)
	if outlived {
		on = ReportOnly
	}
	return on, err
}

func (rep *Reporter) record(ctx context.Context, a management.Actor, keyspace, id string, l Leak) error {
	var on string
	err := rep.manager.Write(ctx, a, keyspace, func(c *management.Call) error {
		k, t, err := c.FindKey(id, true)
		if err != nil {
			return err
		}
		outlived, err := secretEnded(c, k, l.Key)
		if err != nil {
			return err
		}
		if on, err = onLeak(c, k, t, l); err != nil {
			return err
		}
		source, url := cleanLeakText(c, l.Source), cleanLeakText(c, l.URL)
		if known, err := leakRecorded(c, k, source, url); err != nil || known {
			return err
		}
		c.Event = &audit.Event{Action: events.KeyLeaked, Target: k.ID, Tenant: t.Slug, Key: k.ID,
			After: audit.Fields{"source": source, "found_at": url, "on_leak": on, "rotated": outlived}}
		return nil
	})
	if err != nil {
		return err
	}
	switch on {
	case Revoke:
		_, err = rep.manager.RevokeKey(ctx, a, keyspace, id)
	case Disable:
		_, err = rep.manager.DisableKey(ctx, a, keyspace, id)
		var refusal *management.Error
		if errors.As(err, &refusal) && refusal.Status == http.StatusConflict {
			err = nil // it is revoked, which is more
		}
	}
	return err
}

// secretEnded reports whether full is a secret of the key that a rotation ended. One that is stored
// in a form that can't be told from it here counts as current.
func secretEnded(c *management.Call, k *gateway.Key, full string) (bool, error) {
	secrets, err := c.Secrets(c.Keyspace.Name, k.ID)
	if err != nil {
		return false, err
	}
	for _, candidate := range c.View.Hasher.Candidates(nil, full) {
		for _, s := range secrets {
			if string(s.Digest) == string(candidate.Digest[:]) {
				return !s.ExpiresAt.IsZero() && !s.ExpiresAt.After(c.Now), nil
			}
		}
	}
	return false, nil
}

// cleanLeakText returns the part that is stored of a text from an unauthenticated client.
func cleanLeakText(c *management.Call, s string) string {
	if len(s) > maxLeakText {
		// The end may cut a key in two, of which half would not be taken for one.
		s = c.Keyspace.Grammar.Clean(s)
		s = strings.ToValidUTF8(s[:min(len(s), maxLeakText)], "")
	}
	return c.Keyspace.Grammar.Clean(s)
}

// leakRecorded reports whether the leak was recorded, or enough others of the key, not long ago.
func leakRecorded(c *management.Call, k *gateway.Key, source, url string) (bool, error) {
	rows, err := c.Audit(audit.Query{Keyspace: c.Keyspace.Name, Key: k.ID, Limit: maxLeakSearch})
	if err != nil {
		return false, err
	}
	n := 0
	for i := range rows {
		if rows[i].Action != events.KeyLeaked || rows[i].At.Before(c.Now.Add(-leakWindow)) {
			continue
		}
		if rows[i].PersonalAfter("source") == source && rows[i].PersonalAfter("found_at") == url {
			return true, nil
		}
		n++
	}
	return n >= maxLeaksInWindow, nil
}
