package console

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"crypto/rand"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
)

// scopeChoice is a scope that a person can choose for a key.
type scopeChoice struct {
	Name string
	// Includes are the other scopes that this scope includes.
	Includes []string
	// Beyond is true if the tenant's plan does not allow the scope.
	Beyond bool
}

// keyForm is the page that creates or changes a key.
type keyForm struct {
	Form   *form
	Tenant management.TenantRecord
	// Plan is the tenant's plan; nil if the configuration does not have it.
	Plan   *management.PlanRecord
	Scopes []scopeChoice
	Envs   []string
	// Key is the key to change; nil to create one.
	Key *management.KeyRecord
	// Once is the form's single-use number: sent twice, the form creates one key.
	Once string
}

// chooseTenant is the page on which an operator chooses the tenant of a new key.
type chooseTenant struct {
	List  []management.TenantRecord
	More  bool
	Wrong string
	Typed string
}

// keyFormOf returns the data of the page that creates or changes a key of the tenant.
func (c *call) keyFormOf(slug string, f *form) (p keyForm, err error) {
	p.Form = f
	if p.Tenant, err = c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, slug); err != nil {
		return p, err
	}
	plans, err := c.h.manager.Plans(c.h.opts.Keyspace)
	if err != nil {
		return p, err
	}
	for i := range plans.Data {
		if plans.Data[i].Name == p.Tenant.Plan {
			p.Plan = &plans.Data[i]
		}
	}
	ks, err := c.h.manager.Keyspace(c.h.opts.Keyspace)
	if err != nil {
		return p, err
	}
	p.Envs = ks.Grammar.Environments()
	for _, name := range ks.Scopes.Names {
		s := scopeChoice{Name: name}
		for _, included := range ks.Scopes.List(ks.Scopes.Closure([]string{name})) {
			if included != name {
				s.Includes = append(s.Includes, included)
			}
		}
		bit, _ := ks.Scopes.Bit(name)
		if plan := ks.Plans[p.Tenant.Plan]; plan != nil && plan.Cap&bit == 0 {
			s.Beyond = true
		}
		p.Scopes = append(p.Scopes, s)
	}
	return p, nil
}

// Default returns the scopes that a new key gets if the person chooses no others.
func (p keyForm) Default() (names []string) {
	if p.Plan != nil && p.Plan.Scopes != nil {
		return p.Plan.Scopes
	}
	covered := map[string]bool{}
	for _, s := range p.Scopes {
		if !s.Beyond && !covered[s.Name] {
			names = append(names, s.Name)
		}
		for _, i := range s.Includes {
			covered[i] = true
		}
	}
	return names
}

func (c *call) showNewKey() error {
	slug := c.actor.Tenant
	if slug == "" {
		slug = c.r.URL.Query().Get("tenant")
	}
	if slug == "" {
		return c.showChooseTenant(http.StatusOK, "", "")
	}
	f := newForm(nil)
	p, err := c.keyFormOf(slug, f)
	var e *management.Error
	if errors.As(err, &e) && e.Status == http.StatusNotFound && c.actor.Tenant == "" {
		return c.showChooseTenant(http.StatusNotFound, slug, "There is no tenant of that name.")
	}
	if err != nil {
		return err
	}
	f.Set("scopes", p.Default()...)
	f.Set("environment", p.Envs[0])
	f.Set("expires", "90")
	p.Once = rand.Text()
	return c.render(http.StatusOK, "key-new", "Create a key", p)
}

func (c *call) showChooseTenant(status int, typed, wrong string) error {
	if !c.grant.Allows("tenants:read") {
		return c.render(status, "key-tenant", "Create a key", chooseTenant{Typed: typed, Wrong: wrong})
	}
	list, err := c.h.manager.Tenants(c.ctx, c.actor, c.h.opts.Keyspace, management.TenantFilter{PageQuery: management.PageQuery{Limit: 20}})
	if err != nil {
		return err
	}
	return c.render(status, "key-tenant", "Create a key", chooseTenant{list.Data, list.NextCursor != nil, wrong, typed})
}

// keyFields reads the fields of a key. fresh is true for a new key.
func (f *form) keyFields(now time.Time, fresh bool) management.KeyFields {
	in := management.KeyFields{
		Name: f.text("name"), Description: management.Some(strings.ReplaceAll(f.Value("description"), "\r\n", "\n")),
		AllowedIPs: management.Some(f.lines("allowed_ips")),
		Rate:       f.orNull("rate"), Quota: f.orNull("quota"), Concurrency: f.orNull("concurrency"), CreditsLimit: f.number("credits_limit"),
	}
	if f.Value("with_scopes") != "" {
		in.Scopes = management.Some(append([]string{}, f.values["scopes"]...))
	}
	if fresh {
		in.Environment = f.orNull("environment")
	}
	if f.Value("expires") != "keep" {
		in.ExpiresAt = f.expiry("expires", "expires_on", now)
	}
	return in
}

// shownKey is the page that shows a full key. It is shown only once.
type shownKey struct {
	Key management.IssuedKey
	// Rotated is true for the new secret of an existing key.
	Rotated bool
	// Grace is the time until which the former secret stays valid; nil if it is invalid at once.
	Grace *time.Time
}

// shownBefore is the page for a form that was sent a second time.
type shownBefore struct{ ID string }

func (c *call) createKey() error {
	f := newForm(c.r.PostForm)
	slug := c.actor.Tenant
	if slug == "" {
		slug = f.Value("tenant")
	}
	in := f.keyFields(time.Now(), true)
	again := func(status int) error {
		p, err := c.keyFormOf(slug, f)
		if err != nil {
			return err
		}
		if p.Once = f.Value("once"); p.Once == "" {
			p.Once = rand.Text()
		}
		return c.render(status, "key-new", "Create a key", p)
	}
	if f.Failed() {
		return again(http.StatusUnprocessableEntity)
	}
	return c.showOnce("new key "+slug, func(c *call) error {
		k, err := c.h.manager.CreateKey(c.ctx, c.actor, c.h.opts.Keyspace, slug, in)
		if err != nil {
			e, err := f.reject(err)
			if err != nil {
				return err
			}
			return again(e.Status)
		}
		return c.show("key-shown", "Your new key", shownKey{Key: k})
	})
}

// showOnce runs carryOut, which creates a secret and shows it, once for each single-use number of
// a form. If the form is sent again, showOnce only says that the secret was shown before.
func (c *call) showOnce(what string, carryOut func(*call) error) error {
	number := c.r.PostForm.Get("once")
	if number == "" || len(number) > 100 {
		return errStaleForm
	}
	request := sha256.Sum256([]byte(what))
	claim, earlier, err := idempotency.Begin(c.ctx, c.h.manager, "console "+c.grant.ID, number, request[:])
	if err != nil {
		return err
	}
	if earlier != nil {
		return c.render(http.StatusConflict, "key-shown-before", "Shown before", shownBefore{earlier.Effect.Target})
	}
	// The response with the secret must not be stored; the stored effect is enough to recognize a
	// repeated form.
	defer func() { _ = claim.Abandon(c.ctx) }()
	with := *c
	with.ctx = claim.Context(c.ctx)
	return carryOut(&with)
}

// show answers with a page that contains a secret. No cache may store the page, and no proxy may
// change it.
func (c *call) show(page, title string, data any) error {
	c.w.Header().Set("Cache-Control", "no-store, no-transform")
	return c.render(http.StatusOK, page, title, data)
}
