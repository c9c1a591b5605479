package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// typeSchemas are the schemas of types whose JSON form can't be derived from the Go type.
var typeSchemas = map[reflect.Type]func() schema{
	reflect.TypeFor[time.Time]():       func() schema { return aTime("") },
	reflect.TypeFor[json.RawMessage](): func() schema { return anObject("") },
	reflect.TypeFor[[]byte](): func() schema {
		return aText("").orNull().with("contentEncoding", "base64")
	},
	reflect.TypeFor[webhooks.DeliveryStatus](): func() schema {
		return oneOf("", string(webhooks.DeliveryPending), string(webhooks.DeliveryDone), string(webhooks.DeliveryDead))
	},
	reflect.TypeFor[gateway.Status](): func() schema {
		return oneOf("", string(gateway.StatusActive), string(gateway.StatusDisabled), string(gateway.StatusRevoked), string(gateway.StatusExpired))
	},
}

// nullable names the lists and objects that may be null, as Type.field.
var nullable = map[string]bool{
	"PlanRecord.scopes":    true,
	"AuditRecord.before":   true,
	"AuditRecord.after":    true,
	"IssuedKey.key":        true,
	"IssuedKey.curl":       true,
	"IssuedToken.token":    true,
	"IssuedWebhook.secret": true,
	"PortalLink.url":       true,
}

// typeNames maps a Go type to the name of its schema where the two differ. Clients depend on the
// names of schemas.
var typeNames = map[string]string{
	"api.issuedWebhook":    "IssuedWebhook",
	"api.issued":           "IssuedKey",
	"api.issuedToken":      "IssuedToken",
	"audit.Checkpoint":     "Head",
	"audit.Record":         "AuditRecord",
	"audit.Report":         "ChainReport",
	"importer.Report":      "ImportReport",
	"importer.Result":      "ImportResult",
	"inspect.Check":        "CheckResult",
	"inspect.Result":       "VerifyResult",
	"limits.Record":        "StandingRecord",
	"webhooks.PostedEvent": "EventRecord",
	"webhooks.Record":      "WebhookRecord",
}

// components maps the names of records to their schemas.
type components map[string]schema

// of returns the schema of v's type. For a struct, the schema is a reference to a component.
func (c components) of(v any) schema {
	if s, ok := v.(schema); ok {
		return s
	}
	return c.typed(reflect.TypeOf(v))
}

func (c components) typed(t reflect.Type) schema {
	if s, ok := typeSchemas[t]; ok {
		return s()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return c.typed(t.Elem()).orNull()
	case reflect.Bool:
		return aFlag("")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return aNumber("")
	case reflect.Float32, reflect.Float64:
		return described("number", "")
	case reflect.String:
		return aText("")
	case reflect.Slice, reflect.Array:
		return aListOf(c.typed(t.Elem()), "")
	case reflect.Map:
		return anObject("").with("additionalProperties", c.typed(t.Elem()))
	case reflect.Struct:
		return c.record(t)
	}
	return schema{} // The empty schema allows any value.
}

// record returns a reference to the schema of a struct, and adds the schema to c.
func (c components) record(t reflect.Type) schema {
	name := typeName(t)
	ref := schema{"$ref": "#/components/schemas/" + name}
	if _, known := c[name]; known {
		return ref
	}
	s := schema{"type": "object"}
	c[name] = s // The schema is registered before its fields are described, since a field may have the same type.
	properties, required := map[string]schema{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Anonymous && tag == "" || tag == "-" {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		p := c.typed(f.Type)
		if nullable[name+"."+tag] {
			p = p.orNull()
		}
		properties[tag] = p
		if !strings.Contains(f.Tag.Get("json"), ",omit") {
			required = append(required, tag)
		}
	}
	s["properties"], s["required"] = properties, required
	return ref
}

// typeName returns the name of a struct's schema. For example, Page[…KeyRecord] becomes
// KeyRecordPage.
func typeName(t reflect.Type) string {
	outer, inner, generic := strings.Cut(t.String(), "[")
	if !generic {
		return schemaName(outer)
	}
	inner = strings.TrimSuffix(inner, "]")
	_, outer, _ = strings.Cut(outer, ".")
	return schemaName(inner[strings.LastIndexByte(inner, '/')+1:]) + outer
}

// schemaName returns the name of the schema of a type, such as management.KeyRecord.
func schemaName(name string) string {
	if renamed, ok := typeNames[name]; ok {
		return renamed
	}
	_, name, _ = strings.Cut(name, ".")
	return strings.ToUpper(name[:1]) + name[1:]
}
