// Package leaks handles reports of leaked keys. It records each report as an audit event, and
// revokes or disables the key if its tenant's plan says so.
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

// These are the actions of a plan for a key that is reported leaked.
const (
	Revoke     = "revoke"
	Disable    = "disable"
	ReportOnly = "report"
)

const (
	// maxLeakText bounds each text of a report that is stored, in bytes.
	maxLeakText = 1000
	// Everyone who has a key can report it again and again. So within leakWindow, at most maxLeaksInWindow reports of one key
	// are recorded, and each place only once.
	leakWindow       = 24 * time.Hour
	maxLeaksInWindow = 10
	// maxLeakSearch bounds how many events of the key are searched for former reports.
	maxLeakSearch = 100
)

// Leak is a report that a key was found in a public place.
type Leak struct {
	// Key is the full key.
	Key string
	// URL is the place where the key was found. Source is the kind of the place, such as "content"
	// or "npm". Either may be empty. The keyspace's keys are removed from both before they are
	// stored.
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

// New returns the Reporter of a manager. A process needs only one, which limits all its work.
func New(m *management.Manager) *Reporter {
	return &Reporter{manager: m, reports: turns.New(reportRules), log: m.Logger()}
}

// reportRules limit how many reports are handled at the same time, and how many are recorded per
// second.
var reportRules = turns.Rules{Slots: 2, Rate: 5, Burst: 50, Waiting: 256, PerClient: 64}

// KeyspacesOf returns the names of the keyspaces that accept keys of this shape, sorted.
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

// Record records the leak of the key with that id, and does what its tenant's plan says. l.Key is
// one of the key's secrets. If a rotation has ended this secret, Record leaves the key as it is. A
// known leak, and a key that is already revoked, are no error. wrote reports whether Record has
// written anything; a repeated report only reads.
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

// onLeak returns the action for the key: Revoke, Disable or ReportOnly.
func onLeak(c *management.Call, k *gateway.Key, t *gateway.Tenant, l Leak) (on string, err error) {
	on = ReportOnly
	// The leak is recorded even if the plan is missing from the configuration.
	if p := c.Keyspace.Plans[t.Plan]; p != nil && p.OnLeak != "" {
		on = p.OnLeak
	}
	ended, err := secretEnded(c, k, l.Key)
	if ended {
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
		ended, err := secretEnded(c, k, l.Key)
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
			After: audit.Fields{"source": source, "found_at": url, "on_leak": on, "rotated": ended}}
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
		var rejected *management.Error
		if errors.As(err, &rejected) && rejected.Status == http.StatusConflict {
			err = nil // The key is revoked, which is more than disabled.
		}
	}
	return err
}

// secretEnded reports whether full is a secret of the key that a rotation has ended. It returns
// false for a secret in a form that can't be compared here, such as bcrypt.
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

// cleanLeakText returns the text to store for a text of a report. Its keys are removed, and it is
// cut at maxLeakText.
func cleanLeakText(c *management.Call, s string) string {
	if len(s) > maxLeakText {
		// The keys are removed before the cut, since half a key at the end would not be
		// recognized.
		s = c.Keyspace.Grammar.Clean(s)
		s = strings.ToValidUTF8(s[:min(len(s), maxLeakText)], "")
	}
	return c.Keyspace.Grammar.Clean(s)
}

// leakRecorded reports whether the leak, or maxLeaksInWindow others of the key, were recorded
// within leakWindow.
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
