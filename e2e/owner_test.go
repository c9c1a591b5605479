package e2e

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// An SQLite file has one gateway. A second one is rejected at its start. But if the first is about to stop, the second waits,
// and the first ends its streams for it. Credits are spent once.
func TestOneGatewayPerSQLiteFile(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	up.answer("/endless", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begins")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	config := configText("", keyspaceText(`
			plan billed {
				credits
			}
			`), `keygate
	reverse_proxy {$KEYGATE_UPSTREAM} {
		flush_interval -1
	}`)
	first := startOn(t, up, config)
	first.tenant(t, "acme", record{"plan": "billed", "credits": 100})
	k := first.key(t, "acme", nil)
	second := &site{gateway: prepare(t, written(t, config), up, "KEYGATE_DB="+first.database), product: house}
	refused := func() {
		t.Helper()
		second.launch()
		<-second.exited
		if second.status == nil {
			t.Fatal("the second gateway ended without an error")
		}
		pid := strconv.Itoa(first.process.Process.Pid)
		if log := second.log(); !strings.Contains(log, "process "+pid+" on host") || !strings.Contains(log, "stop that process first") {
			t.Errorf("the error names no owner and remedy: %s", second.tail())
		}
	}
	refused()
	first.pause()
	refused()
	first.resume()

	stream, _, _, err := first.begin(t, first.client, "GET", "/endless", k.full, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stream.Body, make([]byte, len("begins"))); err != nil {
		t.Fatal(err)
	}
	first.signal(syscall.SIGTERM)
	testkit.Eventually(t, "the first gateway announces its end", func() bool { return strings.Contains(first.log(), "exiting") })
	second.start()
	<-first.exited
	if first.status != nil {
		t.Errorf("the first gateway ended with %v", first.status)
	}
	if b, err := io.ReadAll(stream.Body); err == nil {
		t.Errorf("the stream ended without an error, after %q", b)
	}
	second.call(t, "GET", "/ping", k.full).passed()
	testkit.Eventually(t, "both requests are charged", func() bool { return second.balance(t, "acme") == 98 })
}
