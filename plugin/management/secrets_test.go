package management_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// TestTextsHoldNoSecrets proves that no text of a caller may hold a key or a token, and that none
// is stored.
func TestTextsHoldNoSecrets(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	k, other := w.key("acme"), w.key("acme")
	token := testkit.Must[auth.IssuedToken](t)(w.CreateToken(ctx, ada, "", auth.TokenFields{
		Name: management.Some("ci"), Scopes: management.Some([]string{"*"}),
	})).Token
	for _, secret := range []string{k.Key, token, strings.ReplaceAll(k.Key, "_", "%5f"), k.Key[:len(k.Key)-4]} {
		text := management.Some("replaces " + secret)
		nested, err := json.Marshal(map[string]any{"a": []any{map[string]string{"b": secret}}})
		if err != nil {
			t.Fatal(err)
		}
		object := management.Some(json.RawMessage(nested))
		for pointer, change := range map[string]func() error{
			"/name": func() error {
				_, err := w.UpdateKey(ctx, ada, "", other.ID, management.KeyFields{Name: text}, nil)
				return err
			},
			"/description": func() error {
				_, err := w.CreateKey(ctx, ada, "", "acme", management.KeyFields{Name: management.Some("ci"), Description: text})
				return err
			},
			"/metadata": func() error {
				_, err := w.UpdateKey(ctx, ada, "", other.ID, management.KeyFields{Metadata: object}, nil)
				return err
			},
			"/name ": func() error {
				_, err := w.UpdateTenant(ctx, ada, "", "acme", management.TenantFields{Name: text}, nil)
				return err
			},
			"/metadata ": func() error {
				_, err := w.UpdateTenant(ctx, ada, "", "acme", management.TenantFields{Metadata: object}, nil)
				return err
			},
			"/reference": func() error {
				_, err := w.AddCredits(ctx, ada, "", "acme", 1, "for "+secret)
				return err
			},
			"/name  ": func() error {
				_, err := w.CreateToken(ctx, ada, "", auth.TokenFields{Name: text, Scopes: management.Some([]string{"*"})})
				return err
			},
			"/actor": func() error {
				_, err := w.CreatePortalLink(ctx, ada, "", "acme", auth.PortalFields{Actor: text})
				return err
			},
			"/return_url": func() error {
				_, err := w.CreatePortalLink(ctx, ada, "", "acme", auth.PortalFields{
					Actor: management.Some("ada"), ReturnURL: management.Some("https://app.example/?k=" + url.QueryEscape(secret)),
				})
				return err
			},
			"/data": func() error {
				_, err := w.PostEvent(ctx, ada, "", "acme", "job.finished", nested)
				return err
			},
		} {
			wantError(t, change(), 422, "invalid_field", strings.TrimSpace(pointer))
		}
	}
	if _, err := w.CreateTenant(ctx, ada, "", k.Key, management.TenantFields{}); err == nil || strings.Contains(err.Error(), k.Key) {
		t.Errorf("a key as a slug: %v", err)
	}
	// A secret in the actor's name does not prevent a change.
	testkit.Must[management.Receipt](t)(w.RevokeKey(ctx, management.Actor{Name: "I am " + k.Key, Via: "api"}, "", k.ID))
	// The visible parts of a key may be in any text.
	testkit.Must[management.KeyRecord](t)(w.UpdateKey(ctx, ada, "", other.ID, management.KeyFields{Description: management.Some("replaces " + k.KeyPrefix + "…" + k.LastFour + ", " + k.ID)}, nil))

	audit, err := json.Marshal(testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{PageQuery: management.PageQuery{Limit: 100}})))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{k.Key[12:], token[12:]} {
		if strings.Contains(string(audit), secret) {
			t.Errorf("the audit holds a secret: %s", audit)
		}
	}
}
