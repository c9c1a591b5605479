package api

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/api/apitest"
)

// Every route has a description, and every description has a route.
func TestEveryRouteIsDescribed(t *testing.T) {
	if _, err := apitest.Parse(documentOf(routes)()); err != nil {
		t.Fatal(err)
	}
	there, names := map[string]bool{}, map[string]string{}
	for _, r := range routes {
		there[r.pattern] = true
		d, ok := docs[r.pattern]
		if !ok {
			t.Errorf("the route %q is not described: put\n\tvar _ = document(%q, doc{…})\nin the file of the method that serves it, as the package comment describes", r.pattern, r.pattern)
			continue
		}
		if d.Summary == "" || len(d.Answers) == 0 {
			t.Errorf("the description of %q has no Summary, or no Answers", r.pattern)
		}
		if other := names[r.name()]; other != "" {
			t.Errorf("%q and %q are served by one method, and so have one operationId", r.pattern, other)
		}
		names[r.name()] = r.pattern
		for _, name := range r.params {
			if d.Query[name] == nil && commonQuery[name] == nil {
				t.Errorf("the parameter %q of %q is not described: add it to doc.Query", name, r.pattern)
			}
		}
		for _, m := range pathParameter.FindAllStringSubmatch(r.pattern, -1) {
			if commonPath[m[1]] == nil {
				t.Errorf("the parameter %q of the path %q is not described: add it to commonPath", m[1], r.pattern)
			}
		}
		method, _, _ := strings.Cut(r.pattern, " ")
		if reads := method != "GET" && method != "DELETE"; reads != (d.Body != nil) && d.Body != nil {
			t.Errorf("%q is described with a body", r.pattern)
		}
		for _, name := range d.Required {
			if d.Body[name] == nil {
				t.Errorf("%q needs the field %q, which is not described", r.pattern, name)
			}
		}
	}
	for pattern := range docs {
		if !there[pattern] {
			t.Errorf("%q is described, but is not a route", pattern)
		}
	}
}

// The document names a server and a licence: client generators use the first server's URL, and
// linters require a licence.
func TestDocumentNamesServerAndLicence(t *testing.T) {
	var d struct {
		Info struct {
			License struct{ Name, Identifier string }
		}
		Servers []struct{ URL string }
	}
	if err := json.Unmarshal(documentOf(routes)(), &d); err != nil {
		t.Fatal(err)
	}
	if d.Info.License.Identifier != "Apache-2.0" || d.Info.License.Name == "" {
		t.Errorf("the licence is %+v", d.Info.License)
	}
	if len(d.Servers) == 0 {
		t.Fatal("no server")
	}
	if u, err := url.Parse(d.Servers[0].URL); err != nil || !u.IsAbs() {
		t.Errorf("the first server is %q, %v", d.Servers[0].URL, err)
	}
}

// No field has more than one type besides null: client generators have a type for "number or
// null", but none for "number or string".
func TestDocumentHasOneTypePerField(t *testing.T) {
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if types, ok := v["type"].([]any); ok && (len(types) != 2 || types[1] != "null") {
				t.Errorf("%s has the types %v", at, types)
			}
			for name, x := range v {
				walk(at+"/"+name, x)
			}
		case []any:
			for i, x := range v {
				walk(at+"/"+strconv.Itoa(i), x)
			}
		}
	}
	var document any
	if err := json.Unmarshal(documentOf(routes)(), &document); err != nil {
		t.Fatal(err)
	}
	walk("", document)
}

// The names of schemas do not change with the names of Go types, since generated clients depend on them.
func TestSchemaNames(t *testing.T) {
	const want = "AuditRecord AuditRecordPage Balance ChainReport CheckResult CreditsRecord DeliveryRecord DeliveryRecordPage EventRecord " +
		"FieldError Head ImportReport ImportResult IssuedKey IssuedToken IssuedWebhook KeyRecord KeyRecordPage Latency LedgerRecord LimitRecord " +
		"LimitsStatus Line NodeStatus PendingNode PlanRecord PlanRecordPage PortalLink Problem Receipt ReplicaStatus Report RequestRecord " +
		"RequestRecordPage ScannerRules SecretRecord StandingRecord StandingRecordPage Status StoreStatus TenantRecord TenantRecordPage " +
		"TokenRecord TokenRecordPage Verdict VerifyResult WebhookRecord WebhookRecordPage"
	var d struct {
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(documentOf(routes)(), &d); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(slices.Sorted(maps.Keys(d.Components.Schemas)), " "); got != want {
		t.Errorf("the schemas are\n%s\nwant\n%s", got, want)
	}
}
