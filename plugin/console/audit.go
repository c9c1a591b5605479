package console

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// auditPage is the page that shows the audit log.
type auditPage struct {
	List  []audit.Record
	Next  string
	First bool
	// Key and Tenant are the filters of the list.
	Key, Tenant string
	// Chain is the result of verifying the audit chain; nil if the chain was not verified.
	Chain *audit.Report
}

func (c *call) listAudit() error { return c.showAudit(nil) }

func (c *call) showAudit(chain *audit.Report) error {
	q := c.r.URL.Query()
	p := auditPage{Key: q.Get("key"), Tenant: q.Get("tenant"), First: q.Get("cursor") == "", Chain: chain}
	list, err := c.h.manager.Audit(c.ctx, c.actor, c.h.opts.Keyspace, management.AuditFilter{Key: p.Key, Tenant: p.Tenant, PageQuery: c.page()})
	if err != nil {
		return err
	}
	p.List, p.Next = list.Data, c.next(list.NextCursor)
	return c.render(http.StatusOK, "audit", "Audit log", p)
}

// verifyAudit verifies the audit chain, which covers all keyspaces. The page shows only whether
// the chain is intact, and no event of other keyspaces.
func (c *call) verifyAudit() error {
	report, err := c.h.manager.VerifyAudit(c.ctx)
	if err != nil {
		return err
	}
	return c.showAudit(&report)
}
