package console

import (
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/limits"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// keyPage is the page that shows one key.
type keyPage struct {
	Key    management.KeyRecord
	Tenant *management.TenantRecord
	Limits []limits.Record
	// LimitsWrong is the reason why the page can't show the limits.
	LimitsWrong string
	Usage       *usageView
	Requests    *requestList
	Audit       []audit.Record
	AuditMore   string
	// Valid is the number of secrets that are valid now.
	Valid int
	Now   time.Time
}

// Actions returns the actions that the key's status allows.
func (p keyPage) Actions() (list []string) {
	switch p.Key.Status {
	case "active":
		return []string{"disable", "revoke", "delete"}
	case "disabled":
		return []string{"enable", "revoke", "delete"}
	case "expired":
		return []string{"revoke", "delete"}
	}
	return []string{"delete"}
}

func (c *call) showKey() error {
	k, err := c.h.manager.Key(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	p := keyPage{Key: k, Now: time.Now()}
	for _, s := range k.Secrets {
		if s.ExpiresAt == nil || s.ExpiresAt.After(p.Now) {
			p.Valid++
		}
	}
	if c.grant.Allows("tenants:read") {
		t, err := c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, k.Tenant)
		if err != nil {
			return err
		}
		p.Tenant = &t
	}
	if p.Limits, p.LimitsWrong, err = c.limitStatus(k.ID); err != nil {
		return err
	}
	if c.grant.Allows("usage:read") && c.h.opts.Usage != nil {
		if p.Usage, err = c.usage(func(r usage.Range) (usage.Report, error) {
			return c.h.opts.Usage.OfKey(c.ctx, c.actor, c.h.opts.Keyspace, k.ID, r)
		}); err != nil {
			return err
		}
		if p.Requests, err = c.requests(k.ID); err != nil {
			return err
		}
	}
	if c.grant.Allows("audit:read") {
		list, err := c.h.manager.Audit(c.ctx, c.actor, c.h.opts.Keyspace, management.AuditFilter{Key: k.ID, PageQuery: management.PageQuery{Limit: 10}})
		if err != nil {
			return err
		}
		if p.Audit = list.Data; list.NextCursor != nil {
			p.AuditMore = c.path("/audit?key=" + k.ID)
		}
	}
	return c.render(http.StatusOK, "key", k.Name, p)
}

// limitStatus returns the state of a key's limits, or the reason why the page can't show it.
func (c *call) limitStatus(id string) ([]limits.Record, string, error) {
	list, err := limits.Key(c.ctx, c.h.manager, c.actor, c.h.opts.Keyspace, id)
	var e *management.Error
	if errors.As(err, &e) && e.Status != http.StatusNotFound {
		return nil, e.Detail, nil
	}
	return list.Data, "", err
}

// limitsView is the part of a page that shows limits.
type limitsView struct {
	ID     string
	Limits []limits.Record
	Wrong  string
}

func (c *call) keyLimits() error {
	id := c.r.PathValue("id")
	limits, wrong, err := c.limitStatus(id)
	if err != nil {
		return err
	}
	return c.fragment("limits", limitsView{id, limits, wrong})
}

// requestList is the part of a page that shows a key's last requests.
type requestList struct {
	ID   string
	List []usage.RequestRecord
	// Off is the reason why the page can't show the requests.
	Off string
}

func (c *call) requests(id string) (*requestList, error) {
	list, err := c.h.opts.Usage.Requests(c.ctx, c.actor, c.h.opts.Keyspace, id, management.PageQuery{Limit: 20})
	var e *management.Error
	if errors.As(err, &e) && e.Status != http.StatusNotFound {
		return &requestList{ID: id, Off: e.Detail}, nil
	}
	return &requestList{ID: id, List: list.Data}, err
}

func (c *call) keyRequests() error {
	if c.h.opts.Usage == nil {
		return errNoPage
	}
	list, err := c.requests(c.r.PathValue("id"))
	if err != nil {
		return err
	}
	return c.fragment("requests", list)
}

func (c *call) showEditKey() error {
	k, err := c.h.manager.Key(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	f := newForm(nil)
	for name, v := range map[string]string{
		"name": k.Name, "description": k.Description, "allowed_ips": strings.Join(k.AllowedIPs, "\n"), "rate": deref(k.Rate), "quota": deref(k.Quota),
		"concurrency": k.ConcurrencyText(), "expires": "keep",
	} {
		f.Set(name, v)
	}
	if k.CreditsLimit != nil {
		f.Set("credits_limit", itoa(*k.CreditsLimit))
	}
	f.Set("scopes", k.Scopes...)
	return c.showKeyForm(http.StatusOK, k, f)
}

func (c *call) showKeyForm(status int, k management.KeyRecord, f *form) error {
	p, err := c.keyFormOf(k.Tenant, f)
	if err != nil {
		return err
	}
	p.Key = &k
	return c.render(status, "key-edit", "Edit "+k.Name, p)
}

func (c *call) editKey() error {
	id := c.r.PathValue("id")
	k, err := c.h.manager.Key(c.ctx, c.actor, c.h.opts.Keyspace, id)
	if err != nil {
		return err
	}
	f := newForm(c.r.PostForm)
	in := f.keyFields(time.Now(), false)
	if f.Failed() {
		return c.showKeyForm(http.StatusUnprocessableEntity, k, f)
	}
	if _, err := c.h.manager.UpdateKey(c.ctx, c.actor, c.h.opts.Keyspace, id, in, nil); err != nil {
		e, err := f.reject(err)
		if err != nil {
			return err
		}
		return c.showKeyForm(e.Status, k, f)
	}
	return c.redirect("/keys/"+id, "key-updated")
}

// rotatePage is the page that gives a key a new secret.
type rotatePage struct {
	Key  management.KeyRecord
	Form *form
	Once string
	// InGrace is a former secret that is still valid and that the rotation would end; nil if there
	// is none.
	InGrace *management.SecretRecord
}

func (c *call) showRotateKey() error {
	f := newForm(nil)
	f.Set("grace", "24h")
	return c.showRotateForm(http.StatusOK, f, rand.Text())
}

func (c *call) showRotateForm(status int, f *form, once string) error {
	k, err := c.h.manager.Key(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	p := rotatePage{Key: k, Form: f, Once: once}
	for i, s := range k.Secrets {
		if s.ExpiresAt != nil && s.ExpiresAt.After(time.Now()) {
			p.InGrace = &k.Secrets[i]
		}
	}
	return c.render(status, "key-rotate", "Rotate "+k.Name, p)
}

func (c *call) rotateKey() error {
	id := c.r.PathValue("id")
	f := newForm(c.r.PostForm)
	var grace time.Duration
	if text := strings.TrimSpace(f.Value("grace")); text != "" && text != "0" {
		var err error
		if grace, err = management.ParseDuration(text); err != nil {
			f.fault("grace", "must be a duration, such as 24h or 7d")
			return c.showRotateForm(http.StatusUnprocessableEntity, f, f.Value("once"))
		}
	}
	return c.showOnce("rotate "+id, func(c *call) error {
		k, err := c.h.manager.RotateKey(c.ctx, c.actor, c.h.opts.Keyspace, id, grace)
		if err != nil {
			e, err := f.reject(err)
			if err != nil {
				return err
			}
			return c.showRotateForm(e.Status, f, f.Value("once"))
		}
		p := shownKey{Key: k, Rotated: true}
		for i, s := range k.Secrets {
			if s.ExpiresAt != nil && s.ExpiresAt.After(time.Now()) {
				p.Grace = k.Secrets[i].ExpiresAt
			}
		}
		return c.show("key-shown", "The new secret", p)
	})
}

// keyAction is an action on a key that a person has to confirm.
type keyAction struct {
	// Name is the last part of the action's path, Verb the label of its button, and Title the
	// beginning of the page's title.
	Name, Verb, Title string
	// Effects describe the consequences of the action.
	Effects []string
	// Grave is true for an action that can't be undone.
	Grave  bool
	notice string
	// do carries out the action. It returns the receipt of the change, or nil if the action has
	// none.
	do func(c *call, id string) (*management.Receipt, error)
}

var keyActions = map[string]keyAction{
	"disable": {
		Verb: "Disable the key", Title: "Disable",
		Effects: []string{
			"The very next request with the key is rejected, and running requests are ended.",
			"It no longer counts towards the plan's number of active keys.",
			"Enabling the key restores it unchanged, with the same secret.",
		},
		notice: "disabled", do: func(c *call, id string) (*management.Receipt, error) {
			return receiptOf(c.h.manager.DisableKey(c.ctx, c.actor, c.h.opts.Keyspace, id))
		},
	},
	"enable": {
		Verb: "Enable the key", Title: "Enable",
		Effects: []string{"Requests with the key pass again, from the next one on.", "It counts towards the plan's number of active keys."},
		notice:  "enabled", do: func(c *call, id string) (*management.Receipt, error) {
			return receiptOf(c.h.manager.EnableKey(c.ctx, c.actor, c.h.opts.Keyspace, id))
		},
	},
	"revoke": {
		Verb: "Revoke permanently", Title: "Revoke", Grave: true,
		Effects: []string{
			"The very next request with the key is rejected, and running requests are ended.",
			"All its secrets become invalid, including one in its grace period.",
			"This can't be undone. Programs that use the key need another one.",
		},
		notice: "revoked", do: func(c *call, id string) (*management.Receipt, error) {
			return receiptOf(c.h.manager.RevokeKey(c.ctx, c.actor, c.h.opts.Keyspace, id))
		},
	},
	"delete": {
		Verb: "Delete permanently", Title: "Delete", Grave: true,
		Effects: []string{
			"Requests with the key are rejected like those with an unknown key.",
			"It disappears from the list. Its usage and its audit log are kept.",
			"This can't be undone.",
		},
		notice: "deleted", do: func(c *call, id string) (*management.Receipt, error) {
			return nil, c.h.manager.DeleteKey(c.ctx, c.actor, c.h.opts.Keyspace, id, nil)
		},
	},
	"reset-limits": {
		Verb: "Reset the limits", Title: "Reset the limits of",
		Effects: []string{"The key's own rates and quotas are reset: nothing counts as used.", "Its tenant's shared limits and credits stay as they are."},
		notice:  "limits-reset", do: func(c *call, id string) (*management.Receipt, error) {
			return nil, errorOf(limits.ResetKey(c.ctx, c.h.manager, c.actor, c.h.opts.Keyspace, id, nil))
		},
	},
}

func receiptOf(r management.Receipt, err error) (*management.Receipt, error) { return &r, err }

func errorOf[T any](_ T, err error) error { return err }

// confirmPage asks a person to confirm an action.
type confirmPage struct {
	Title, Subject, Detail, Verb string
	Effects                      []string
	Grave                        bool
	Action, Cancel               string
	// Wrong is the reason why the action was rejected.
	Wrong string
	// Check is the label of a checkbox that extends the action; "" for no checkbox. CheckName is
	// the name of its form field.
	Check, CheckName string
	// Once is the single-use number of the form of an action that shows a secret; "" for other
	// actions.
	Once string
}

func (c *call) keyAction() (keyAction, management.KeyRecord, error) {
	a, ok := keyActions[c.r.PathValue("act")]
	if !ok || c.r.PathValue("act") == "reset-limits" && c.actor.Tenant != "" {
		return a, management.KeyRecord{}, errNoPage
	}
	a.Name = c.r.PathValue("act")
	k, err := c.h.manager.Key(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id"))
	return a, k, err
}

func (c *call) confirmKey() error {
	a, k, err := c.keyAction()
	if err != nil {
		return err
	}
	return c.confirmKeyAction(http.StatusOK, a, k, "")
}

func (c *call) confirmKeyAction(status int, a keyAction, k management.KeyRecord, wrong string) error {
	p := confirmPage{
		Title: a.Title + " “" + k.Name + "”?", Subject: k.Name, Detail: k.KeyPrefix + "…" + k.LastFour, Verb: a.Verb, Effects: a.Effects, Grave: a.Grave,
		Action: c.to("/keys/", k.ID, "/"+a.Name), Cancel: c.to("/keys/", k.ID), Wrong: wrong,
	}
	if (a.Name == "revoke" || a.Name == "delete" || a.Name == "disable") && k.LastUsedAt != nil && time.Since(*k.LastUsedAt) < 24*time.Hour && k.IsActive {
		p.Effects = append([]string{"It is in use: it was last used " + spanText(time.Since(*k.LastUsedAt)) + " ago" + from(k.LastUsedIP) + "."}, p.Effects...)
	}
	return c.render(status, "key-confirm", a.Title+" "+k.Name, p)
}

func from(ip *string) string {
	if ip == nil {
		return ""
	}
	return " from " + *ip
}

// receiptPage shows on which nodes a change is in effect.
type receiptPage struct {
	Key     management.KeyRecord
	Receipt management.Receipt
	Done    string
}

func (c *call) changeKey() error {
	a, k, err := c.keyAction()
	if err != nil {
		return err
	}
	receipt, err := a.do(c, k.ID)
	if err != nil {
		var e *management.Error
		if errors.As(err, &e) && e.Status != http.StatusNotFound && e.Status != http.StatusUnauthorized {
			return c.confirmKeyAction(e.Status, a, k, e.Error())
		}
		return err
	}
	if receipt != nil && (len(receipt.Pending) > 0 || !receipt.Durable) {
		return c.render(http.StatusOK, "key-receipt", "Not everywhere yet", receiptPage{k, *receipt, notices[a.notice]})
	}
	if a.Name == "delete" {
		return c.redirect("/keys", a.notice)
	}
	return c.redirect("/keys/"+k.ID, a.notice)
}
