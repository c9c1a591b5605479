package webhook

import (
	"net/http"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// The environment's proxy would dial in place of this process, and check no address.
func TestNoProxyIsAsked(t *testing.T) {
	if newClient(webhooks.Reach{}).Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy is asked")
	}
}
