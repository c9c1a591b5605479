package api

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/importer"
)

var _ = document("POST /v1/import", doc{
	Summary: "Imports keys that were issued elsewhere, plain or as hashes.",
	Description: "Up to 1,000 rows a call. A row that breaks a rule is rejected alone. A key that its tenant already has stays unchanged, " +
		"so that an import may be sent again. A plain key is hashed at once and never stored; an imported key is stored in the gateway's own form when it is first used.",
	Body: fields{
		"create_tenants":      aFlag("Creates missing tenants on the default plan. Needs the scope tenants:write. Default: false.").orNull(),
		"allow_unknown_shape": aFlag("Imports hashes although neither a prefix of the row nor an accept line shows that their keys are accepted; such keys are rejected until one does. Default: false.").orNull(),
		"keys": aListOf(schema{"type": "object", "additionalProperties": false, "required": []string{"tenant"}, "properties": importFields()},
			"The rows, each with a key or a hash.").with("minItems", 1).with("maxItems", importer.MaxRows),
	},
	Required: []string{"keys"},
	Answers:  map[int]any{http.StatusOK: importer.Report{}},
})

func importFields() fields {
	f := keyBody()
	f["tenant"] = aText("The tenant's slug.")
	f["name"] = aText("For people. Default and null: imported.").with("minLength", 1).with("maxLength", management.MaxKeyName).orNull()
	f["expires_at"] = aTime("May be past. Default and null: never.").orNull()
	f["key"] = aText("The full key.").orNull()
	f["hash"] = aText("A hash of the full key, in hexadecimal or base64; of bcrypt the text that begins with $2.").orNull()
	f["algorithm"] = oneOf("How the hash was made.", "sha256", "sha512", "hmac-sha256", "bcrypt").orNull()
	f["pepper"] = aText("The id of the pepper that an HMAC was made with: the first 8 hexadecimal digits of SHA-256(\"keygate pepper id\" + pepper). Default: the only one configured.").orNull()
	f["prefix"] = aText("How the key begins. A bcrypt hash is found by it, and needs four of the random characters.").orNull()
	f["last_four"] = aText("How the key ends, at most four characters.").orNull()
	f["created_at"] = aTime("Default and null: now.").orNull()
	f["disabled"] = aFlag("The key is known, but rejected. Default: false.").orNull()
	f["revoked"] = aFlag("The key is revoked. Default: false.").orNull()
	f["revoked_at"] = aTime("When the key was revoked.").orNull()
	return f
}

// importRow reads one row of an import. A fault rejects only this row.
func importRow(raw json.RawMessage) (row importer.Row) {
	o := new(object)
	var ok bool
	if o.fields, ok = scanObject(raw); !ok {
		var err error
		o, err = membersOf(raw)
		ok = err == nil && o != nil
	}
	if !ok {
		row.Fault = &management.Error{
			Status: http.StatusUnprocessableEntity, Code: management.CodeInvalidField, Detail: "The row must be a JSON object.",
		}
		return row
	}
	tenant := o.string("tenant")
	if tenant.Value == "" && len(o.faults) == 0 {
		o.fault("tenant", "is needed: the slug of the key's tenant")
	}
	row = importer.Row{
		Tenant: tenant.Value, Key: o.string("key"), Hash: o.string("hash"), Algorithm: o.string("algorithm"), Pepper: o.string("pepper"),
		Prefix: o.string("prefix"), LastFour: o.string("last_four"), CreatedAt: o.time("created_at"),
		Disabled: o.bool("disabled"), Revoked: o.bool("revoked"), RevokedAt: o.time("revoked_at"), Fields: keyFields(o),
	}
	if err := o.done(); err != nil {
		errors.As(err, &row.Fault)
	}
	return row
}

func (c *call) importKeys() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	list := field(o, "keys", func(raw json.RawMessage, rows *[]json.RawMessage) string {
		if elements, ok := scanArray(raw); ok {
			*rows = make([]json.RawMessage, len(elements))
			for i, e := range elements {
				(*rows)[i] = e
			}
			return ""
		}
		return unmarshal(raw, rows, "must be an array of rows")
	})
	create, unknown := o.bool("create_tenants"), o.bool("allow_unknown_shape")
	if err := o.done(); err != nil {
		return err
	}
	if create.Value && c.access.Allows != nil && !c.access.Allows("tenants:write") {
		return &management.Error{
			Status: http.StatusForbidden, Code: management.CodeInsufficientScope, Detail: "The token lacks the scope tenants:write, which create_tenants needs.",
		}
	}
	// Import rejects lists with more than MaxRows rows. So rows after the first excess row need not be read.
	rows := make([]importer.Row, min(len(list.Value), importer.MaxRows+1))
	for i := range rows {
		rows[i] = importRow(list.Value[i])
	}
	r, err := importer.Import(c.ctx, c.h.manager, c.actor, c.keyspace, rows, importer.Options{CreateTenants: create.Value, AllowUnknownShape: unknown.Value})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, r)
}
