// Package store names what a store's transactions hold, over all packages that keep rows in one.
package store

import (
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
	"github.com/keygate-dev/keygate/plugin/management/importer"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// Tx is a transaction of a store. Each interface is declared by the package that works with those rows; such a package
// gets its own from a management.Tx by management.Role. So every transaction that a store hands out must implement Tx.
type Tx interface {
	management.Tx
	auth.Tx
	idempotency.Tx
	importer.Tx
	webhooks.Tx
}
