package caddymodule

import (
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/dgraph-io/ristretto/v2"
	_ "github.com/gorilla/websocket"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/spf13/cobra"
	_ "go.uber.org/zap"
	_ "golang.org/x/crypto/bcrypt"
	_ "golang.org/x/net/http2/h2c"
	_ "golang.org/x/sync/singleflight"
	_ "golang.org/x/time/rate"
	_ "google.golang.org/grpc"
	_ "modernc.org/sqlite"
)
