// Package store declares the interface of a store's transactions, which combines those of all
// packages that keep rows in a store.
package store

import (
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
	"github.com/keygate-dev/keygate/plugin/management/importer"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// Tx is a transaction of a store. Each embedded interface is declared by the package that works
// with its rows. That package obtains its interface from a management.Tx by management.Role, so
// every transaction of a store must implement Tx.
type Tx interface {
	management.Tx
	auth.Tx
	idempotency.Tx
	importer.Tx
	webhooks.Tx
}
