package management_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/turns"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// token creates a management token. by is the token that issues it, nil for an operator.
func (w *fixture) token(by *auth.Grant, in auth.TokenFields) auth.IssuedToken {
	w.t.Helper()
	a := ada
	if by != nil {
		a = by.Actor("192.0.2.1")
	}
	return testkit.Must[auth.IssuedToken](w.t)(w.CreateToken(ctx, a, "", in))
}

func tokenOf(tenant string, scopes ...string) auth.TokenFields {
	f := auth.TokenFields{Name: management.Some("t"), Scopes: management.Some(scopes)}
	if tenant != "" {
		f.Tenant = management.Some(tenant)
	}
	return f
}

func (w *fixture) grant(full string) *auth.Grant {
	w.t.Helper()
	return testkit.Must[*auth.Grant](w.t)(w.CheckToken(ctx, full, "192.0.2.9"))
}

func (w *fixture) wantNoGrant(full string) {
	w.t.Helper()
	_, err := w.CheckToken(ctx, full, "192.0.2.9")
	wantError(w.t, err, http.StatusUnauthorized, management.CodeInvalidToken)
}

func TestTokenRecord(t *testing.T) {
	w := newFixture(t)
	k := w.token(nil, tokenOf("", "keys:write", "keys:read", "keys:write"))
	if len(k.Token) != len("kgm_")+38 || !strings.HasPrefix(k.Token, k.TokenPrefix) || len(k.TokenPrefix) != 12 || len(k.LastFour) != 4 ||
		!strings.HasPrefix(k.ID, "tok_") || !slices.Equal(k.Scopes, []string{"keys:read", "keys:write"}) || k.CreatedBy != "ada" || k.Status != gateway.StatusActive {
		t.Errorf("made %+v", k)
	}
	g := w.grant(k.Token)
	if g.ID != k.ID || g.Keyspace != "default" || !g.Allows("keys:read") || g.Allows("tenants:read") || g.Allows("*") {
		t.Errorf("grant %+v", g)
	}
	if all := w.grant(w.token(nil, tokenOf("", "*")).Token); !all.Allows("webhooks:write") || !all.Allows("*") {
		t.Error("* is not everything")
	}
	for _, text := range []string{"", "kgm_", k.Token[:20], k.Token + "0", k.Token[:len(k.Token)-1] + "!", "kg_live_00000000000000000000000000000000"} {
		w.wantNoGrant(text)
	}
	// A token of another store has the right shape but is unknown here.
	other := newFixture(t)
	w.wantNoGrant(other.token(nil, tokenOf("", "*")).Token)
	list := testkit.Must[management.Page[auth.TokenRecord]](t)(w.Tokens(ctx, ada, "", auth.TokenFilter{}))
	if len(list.Data) != 2 || list.Data[1].ID != k.ID {
		t.Errorf("listed %+v", list)
	}
	if list := testkit.Must[management.Page[auth.TokenRecord]](t)(w.Tokens(ctx, ada, "other", auth.TokenFilter{})); len(list.Data) != 0 {
		t.Errorf("another keyspace lists %+v", list)
	}
	w.wantIntact(2)
}

func TestTokenFaults(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	for name, c := range map[string]struct {
		in      auth.TokenFields
		pointer string
	}{
		"no name":        {auth.TokenFields{Scopes: management.Some([]string{"*"})}, "/name"},
		"no scopes":      {auth.TokenFields{Name: management.Some("n")}, "/scopes"},
		"unknown scope":  {tokenOf("", "keys:read", "keys:all"), "/scopes/1"},
		"unknown tenant": {tokenOf("missing", "*"), "/tenant"},
		"past": {auth.TokenFields{Name: management.Some("n"), Scopes: management.Some([]string{"*"}),
			ExpiresAt: management.Some(w.clock.Now().Add(-time.Hour))}, "/expires_at"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.CreateToken(ctx, ada, "", c.in)
			wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, c.pointer)
		})
	}
}

// TestTokenGivesNothingBeyondItself proves that a token can't issue one with more scopes, another
// tenant or keyspace, or a later expiry.
func TestTokenGivesNothingBeyondItself(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	w.tenant("b", "pro")
	end := w.clock.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	in := tokenOf("acme", "tokens:write", "keys:read")
	in.ExpiresAt = management.Some(end)
	made := w.token(nil, in)
	g := w.grant(made.Token)
	rejected := func(name, code, pointer string, in auth.TokenFields) {
		t.Helper()
		_, err := w.CreateToken(ctx, g.Actor(""), "", in)
		t.Log(name)
		wantError(t, err, http.StatusUnprocessableEntity, code, pointer)
	}
	rejected("another scope", management.CodeScopeNotAllowed, "/scopes/1", tokenOf("", "keys:read", "keys:write"))
	rejected("every scope", management.CodeScopeNotAllowed, "/scopes/0", tokenOf("", "*"))
	rejected("another tenant", management.CodeInvalidField, "/tenant", tokenOf("b", "keys:read"))
	later, never := tokenOf("", "keys:read"), tokenOf("", "keys:read")
	later.ExpiresAt, never.ExpiresAt = management.Some(end.Add(time.Second)), management.Null[time.Time]()
	rejected("longer", management.CodeInvalidField, "/expires_at", later)
	rejected("for ever", management.CodeInvalidField, "/expires_at", never)
	_, err := w.CreateToken(ctx, g.Actor(""), "other", tokenOf("", "keys:read"))
	wantError(t, err, http.StatusUnauthorized, management.CodeInvalidToken) // The token does not exist in the other keyspace.

	child := w.token(g, tokenOf("", "keys:read"))
	if child.Tenant == nil || *child.Tenant != "acme" || child.ExpiresAt == nil || !child.ExpiresAt.Equal(end) || *child.CreatedByToken != made.ID {
		t.Errorf("the child %+v", child)
	}
	// The audit event names the issuing token, and the tenant's own audit events include it.
	events := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, g.Actor(""), "", management.AuditFilter{}))
	if e := events.Data[0]; e.Action != "token.created" || e.Token == nil || *e.Token != made.ID || !strings.Contains(e.Actor, made.ID) {
		t.Errorf("the event %+v", e)
	}
}

func TestTokenEnds(t *testing.T) {
	w := newFixture(t)
	in := tokenOf("", "*")
	in.ExpiresAt = management.Some(w.clock.Now().Add(time.Hour))
	short := w.token(nil, in)
	root := w.token(nil, tokenOf("", "*"))
	g := w.grant(root.Token)
	child := w.token(g, tokenOf("", "tokens:write", "keys:read"))
	grandchild := w.token(w.grant(child.Token), tokenOf("", "keys:read"))
	unrelated := w.token(nil, tokenOf("", "keys:read"))
	for _, full := range []string{short.Token, child.Token, grandchild.Token, unrelated.Token} {
		w.grant(full)
	}
	if err := w.RevokeToken(ctx, ada, "", root.ID); err != nil {
		t.Fatal(err)
	}
	for _, full := range []string{root.Token, child.Token, grandchild.Token} {
		w.wantNoGrant(full)
	}
	w.grant(unrelated.Token)
	// An actor that was authenticated before the revocation can't issue tokens any more.
	_, err := w.CreateToken(ctx, g.Actor(""), "", tokenOf("", "keys:read"))
	wantError(t, err, http.StatusUnauthorized, management.CodeInvalidToken)
	if err := w.RevokeToken(ctx, ada, "", root.ID); err != nil {
		t.Errorf("revoking twice: %v", err)
	}
	w.wantIntact(5 + 3)
	wantError(t, w.RevokeToken(ctx, ada, "other", unrelated.ID), http.StatusNotFound, management.CodeNotFound)
	wantError(t, w.RevokeToken(ctx, ada, "", "tok_x"), http.StatusNotFound, management.CodeNotFound)

	w.grant(short.Token)
	w.clock.Advance(time.Hour)
	w.wantNoGrant(short.Token)
	w.grant(unrelated.Token)
}

// TestTokenOfOneTenant proves what a token of one tenant may not do or learn.
func TestTokenOfOneTenant(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	w.tenant("b", "pro")
	mine, theirs := w.key("acme"), w.key("b")
	w.key("b")
	ours, foreign := w.token(nil, tokenOf("acme", "*")), w.token(nil, tokenOf("b", "*"))
	a := w.grant(ours.Token).Actor("")

	const forbidden, denied = http.StatusForbidden, management.CodeInsufficientScope
	gone := func(err error) { t.Helper(); wantError(t, err, http.StatusNotFound, management.CodeNotFound) }
	no := func(err error, pointers ...string) { t.Helper(); wantError(t, err, forbidden, denied, pointers...) }

	_, err := w.Key(ctx, a, "", theirs.ID)
	gone(err)
	_, err = w.Tenant(ctx, a, "", "b")
	gone(err)
	_, err = w.RevokeKey(ctx, a, "", theirs.ID)
	gone(err)
	gone(w.RevokeToken(ctx, a, "", foreign.ID))
	for _, slug := range []string{"b", "acme", "new"} {
		_, err = w.CreateTenant(ctx, a, "", slug, management.TenantFields{})
		no(err)
	}
	_, _, err = w.PutTenant(ctx, a, "", "b", management.TenantFields{}, nil)
	gone(err)
	_, _, err = w.PutTenant(ctx, a, "", "new", management.TenantFields{}, nil)
	gone(err)
	no(w.DeleteTenant(ctx, a, "", "acme", true, nil))
	gone(w.DeleteTenant(ctx, a, "", "b", true, nil))
	_, err = w.AddCredits(ctx, a, "", "acme", 5, "")
	no(err)
	_, err = w.SpendCredits(ctx, a, "", "acme", 5, "")
	no(err)
	_, err = w.UpdateTenant(ctx, a, "", "acme", management.TenantFields{Credits: management.Some[int64](5)}, nil)
	no(err)
	_, err = w.UpdateTenant(ctx, a, "", "acme", management.TenantFields{Plan: management.Some("business"), Rate: management.Some("9/s"), Active: management.Some(false)}, nil)
	no(err, "/active", "/plan", "/rate")
	if _, err = w.UpdateTenant(ctx, a, "", "acme", management.TenantFields{Name: management.Some("N"), Plan: management.Some("pro"), Credits: management.Some[int64](0)}, nil); err != nil {
		t.Errorf("its name: %v", err)
	}

	// A cursor that names a row of another tenant is rejected, whether the row exists or not.
	page := testkit.Must[management.Page[management.KeyRecord]](t)(w.Keys(ctx, ada, "", management.KeyFilter{Tenant: "b", PageQuery: management.PageQuery{Limit: 1}}))
	_, err = w.Keys(ctx, a, "", management.KeyFilter{PageQuery: management.PageQuery{Cursor: *page.NextCursor}})
	wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField)
	tokens := testkit.Must[management.Page[auth.TokenRecord]](t)(w.Tokens(ctx, ada, "", auth.TokenFilter{PageQuery: management.PageQuery{Limit: 1}}))
	_, err = w.Tokens(ctx, a, "", auth.TokenFilter{PageQuery: management.PageQuery{Cursor: *tokens.NextCursor}})
	if tokens.Data[0].ID == foreign.ID {
		wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField)
	}
	if list := testkit.Must[management.Page[management.KeyRecord]](t)(w.Keys(ctx, a, "", management.KeyFilter{Tenant: "b"})); len(list.Data) != 0 {
		t.Errorf("the other's keys %+v", list)
	}
	if list := testkit.Must[management.Page[auth.TokenRecord]](t)(w.Tokens(ctx, a, "", auth.TokenFilter{})); len(list.Data) != 1 || list.Data[0].ID != ours.ID {
		t.Errorf("tokens %+v", list)
	}
	for _, q := range []management.AuditFilter{{Tenant: "b"}, {Key: theirs.ID}} {
		if list := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, a, "", q)); len(list.Data) != 0 {
			t.Errorf("the other's events %+v", list)
		}
	}
	if _, err := w.Key(ctx, a, "", mine.ID); err != nil {
		t.Error(err)
	}
}

func TestTokenOfOneTenantOnlyTightens(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	k := w.key("acme", func(f *management.KeyFields) {
		f.Rate, f.Quota, f.Concurrency = management.Some("60/m burst 10, 1000/h"), management.Some("100/day"), management.Some("5")
		f.CreditsLimit = management.Some[int64](50)
	})
	bare := w.key("acme")
	a := w.grant(w.token(nil, tokenOf("acme", "*")).Token).Actor("")
	for _, c := range []struct {
		field string
		in    management.KeyFields
		ok    bool
	}{
		{"rate", management.KeyFields{Rate: management.Some("61/m burst 10, 1000/h")}, false},
		{"rate", management.KeyFields{Rate: management.Some("60/m burst 11, 1000/h")}, false},
		{"rate", management.KeyFields{Rate: management.Some("60/m")}, false},
		{"rate", management.KeyFields{Rate: management.Some("2/s burst 1, 1000/h")}, false},
		{"rate", management.KeyFields{Rate: management.Some("3601/h burst 10")}, false},
		{"rate", management.KeyFields{Rate: management.Null[string]()}, false},
		{"rate", management.KeyFields{Rate: management.Some("60/m burst 10, 999/h")}, true},
		{"rate", management.KeyFields{Rate: management.Some("10/m burst 10")}, true},
		{"quota", management.KeyFields{Quota: management.Some("101/day")}, false},
		{"quota", management.KeyFields{Quota: management.Some("100/month")}, false},
		{"quota", management.KeyFields{Quota: management.Null[string]()}, false},
		{"quota", management.KeyFields{Quota: management.Some("99/day")}, true},
		{"concurrency", management.KeyFields{Concurrency: management.Some("6")}, false},
		{"concurrency", management.KeyFields{Concurrency: management.Null[string]()}, false},
		{"concurrency", management.KeyFields{Concurrency: management.Some("4")}, true},
		{"credits_limit", management.KeyFields{CreditsLimit: management.Some[int64](51)}, false},
		{"credits_limit", management.KeyFields{CreditsLimit: management.Null[int64]()}, false},
		{"credits_limit", management.KeyFields{CreditsLimit: management.Some[int64](49)}, true},
	} {
		_, err := w.UpdateKey(ctx, a, "", k.ID, c.in, nil)
		if c.ok && err != nil {
			t.Errorf("%s %+v: %v", c.field, c.in, err)
		} else if !c.ok {
			wantError(t, err, http.StatusForbidden, management.CodeInsufficientScope, "/"+c.field)
		}
		if _, err := w.UpdateKey(ctx, a, "", bare.ID, management.KeyFields{Rate: management.Some("1/s")}, nil); err != nil {
			t.Fatalf("where there is no limit, any is tighter: %v", err)
		}
		w.t = t
		_ = testkit.Must[management.KeyRecord](t)(w.UpdateKey(ctx, ada, "", bare.ID, management.KeyFields{Rate: management.Null[string]()}, nil))
	}
}

// TestTokenUseIsStored proves that the time and address of a token's use are stored in the
// background.
func TestTokenUseIsStored(t *testing.T) {
	w := newFixture(t)
	k := w.token(nil, tokenOf("", "*"))
	w.grant(k.Token)
	testkit.Eventually(t, "the use", func() bool {
		r := testkit.Must[management.Page[auth.TokenRecord]](t)(w.Tokens(ctx, ada, "", auth.TokenFilter{})).Data[0]
		return r.LastUsedAt != nil && *r.LastUsedIP == "192.0.2.9"
	})
}

func TestCleanTokens(t *testing.T) {
	w := newFixture(t)
	full := w.token(nil, tokenOf("", "*")).Token
	for _, text := range []string{"/a/" + full + "?x=" + full, "Bearer " + full[:30], strings.ReplaceAll(full, "_", "%5f")} {
		if got := management.CleanTokens(text); strings.Contains(got, full[13:28]) || !strings.Contains(got, "…") {
			t.Errorf("%q is cleaned to %q", text, got)
		}
	}
}

// TestUnknownTokensTakeTurns proves that look-ups of unknown tokens are limited. Known tokens and
// sessions need no turn, and a valid token that is shown for the first time gets one.
func TestUnknownTokensTakeTurns(t *testing.T) {
	w := newFixture(t)
	known := w.token(nil, tokenOf("", "keys:read")).Token
	w.grant(known)
	fresh := w.token(nil, tokenOf("", "keys:read")).Token
	w.grant(known)
	session := testkit.Must[auth.IssuedSession](t)(w.SignIn(ctx, "", known, "", "192.0.2.9"))
	testkit.Must[*auth.SessionGrant](t)(w.CheckSession(ctx, "", session.Secret, "192.0.2.9"))
	g, err := apikey.NewGrammar([]apikey.Prefix{{Value: "kgm_", Environment: "management"}}, apikey.Format{Length: 38}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var rejected *management.Error
	unknown := func(within time.Duration) error {
		at, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		_, err := w.CheckToken(at, testkit.Must[string](t)(g.Generate("")), "203.0.113.7")
		return err
	}
	if err := unknown(time.Minute); !errors.As(err, &rejected) || rejected.Status != http.StatusUnauthorized {
		t.Errorf("an unknown token that gets a turn: %v", err)
	}
	w.grant(fresh)
	w.LimitLookups(turns.Rules{Waiting: 10, PerClient: 10, Rate: 1}) // These rules leave no turn.
	if err := unknown(time.Millisecond); !errors.As(err, &rejected) || rejected.Status != http.StatusServiceUnavailable {
		t.Errorf("an unknown token that gets no turn: %v", err)
	}
	now, cancel := context.WithCancel(ctx)
	cancel() // A call with this context can't wait for a turn.
	if _, err := w.CheckToken(now, known, "203.0.113.7"); err != nil {
		t.Errorf("a known token: %v", err)
	}
	testkit.Must[*auth.SessionGrant](t)(w.CheckSession(ctx, "", session.Secret, "192.0.2.9"))
}
