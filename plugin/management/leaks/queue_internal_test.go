package leaks

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keygate-dev/keygate/internal/turns"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// TestLeakQueue proves that the queue is bounded and holds each key once, and that Finish handles
// the reports without turns.
func TestLeakQueue(t *testing.T) {
	var log bytes.Buffer
	rep := &Reporter{log: slog.New(slog.NewTextHandler(&log, nil)), reports: turns.New(turns.Rules{Waiting: 10, PerClient: 10, Rate: 1})} // With these rules, no report ever gets a turn.
	var dealt atomic.Int64
	deal := func(context.Context) (bool, error) { dealt.Add(1); return true, nil }
	for range 2 {
		for i := range maxLeaksWaiting {
			rep.enqueue(&rep.queue.known, fmt.Sprint(i), deal)
		}
	}
	// The worker may have taken one of the reports out of the list.
	for i := range 20 {
		rep.enqueue(&rep.queue.known, fmt.Sprint("more", i), deal)
	}
	rep.ReportUnchecked("unchecked", deal)
	if n := strings.Count(log.String(), "reports were dropped"); n != 1 || !strings.Contains(log.String(), "dropped=1 ") {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	rep.Finish(t.Context())
	if n := dealt.Load(); n < maxLeaksWaiting+1 || n > maxLeaksWaiting+3 {
		t.Errorf("%d were dealt with", n)
	}
	// Finish logs the reports that the store did not accept.
	log.Reset()
	rep.ReportUnchecked("failing", func(context.Context) (bool, error) { return false, gateway.ErrStore })
	rep.Finish(t.Context())
	if !strings.Contains(log.String(), "dropped=1") {
		t.Errorf("logged %q", log.String())
	}
}
