package webhook

import (
	"net/http"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// Deliveries use no proxy of the environment, as it would connect without a check of the address.
func TestNoProxyIsUsed(t *testing.T) {
	if newClient(webhooks.Reach{}).Transport.(*http.Transport).Proxy != nil {
		t.Error("the client uses a proxy")
	}
}
