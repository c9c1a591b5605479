package console

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// auditPage is the audit log.
type auditPage struct {
	List  []audit.Record
	Next  string
	First bool
	// Key and Tenant are the filter.
	Key, Tenant string
	// Chain is the result of checking the chain; nil if it was not checked.
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

// verifyAudit checks the chain, which covers all keyspaces: the page shows its state, and none of its content.
func (c *call) verifyAudit() error {
	report, err := c.h.manager.VerifyAudit(c.ctx)
	if err != nil {
		return err
	}
	return c.showAudit(&report)
}
