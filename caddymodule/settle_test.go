package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// After the client has left, the request goes on for 30 s. A request that ends earlier leaves no
// timer behind.
func TestDrainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, leave := context.WithCancel(t.Context())
		x := newExchange(nil, httptest.NewRecorder(), httptest.NewRequestWithContext(client, http.MethodPost, "/", nil))
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(client))
		x.cancel = cancel
		stop := x.drain(ctx)
		time.Sleep(time.Hour)
		leave()
		time.Sleep(drainTime - time.Second)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Error("the request ends too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if stop(); !errors.Is(context.Cause(ctx), errClientLeft) || !x.w.gaveUp {
			t.Errorf("the request goes on: %v, gave up: %v", context.Cause(ctx), x.w.gaveUp)
		}
	})
}
