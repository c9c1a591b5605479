package caddymodule

import (
	"context"
	"log/slog"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// store is what a store package provides: the engine's side and management's.
type store interface {
	gateway.Store
	management.Store
	usage.Store
}

// openStore opens and migrates the store at path. This is the one place where store
// packages are named; what a configuration calls them is in stores.go.
func openStore(ctx context.Context, path string, log *slog.Logger) (store, error) {
	return sqlstore.Open(ctx, path, log)
}
