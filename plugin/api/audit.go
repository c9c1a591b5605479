package api

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

const onlyWhole = "On Caddy's admin endpoint only: the chain is one over all keyspaces."

var (
	_ = document("GET /v1/audit", doc{
		Summary: "Lists what was done, newest first.",
		Query:   map[string]schema{"key": aText("Only what was done to this key, by its id.")},
		Answers: map[int]any{http.StatusOK: management.Page[audit.Record]{}},
	})
	_ = document("GET /v1/audit/head", doc{
		Summary: "Says how far the chain of hashes has come, signed where there is a secret to sign with.",
		Description: "To be kept elsewhere: by it is noticed, later, that the chain was cut short or rewritten. The chain is one over all keyspaces; " +
			"events counts those of the keyspace that is meant, on the admin endpoint of all where there are several and none is named.",
		Answers: map[int]any{http.StatusOK: audit.Checkpoint{}},
	})
	_ = document("GET /v1/audit/verify", doc{
		Summary: "Checks the chain of hashes over all events.", Description: onlyWhole,
		Answers: map[int]any{http.StatusOK: audit.Report{}},
	})
	_ = document("POST /v1/audit/verify", doc{
		Summary: "Checks the chain of hashes over all events, and that it still has heads that were kept elsewhere.", Description: onlyWhole,
		Body: fields{
			"heads": aListOf(schema{"$ref": "#/components/schemas/Head"}, "As GET /v1/audit/head answered them.").with("minItems", 1).with("maxItems", audit.MaxCheckpoints),
			"public_keys": aListOf(aText("").with("contentEncoding", "base64"),
				"Public keys that heads may be signed with, beside the one of this gateway's secret: those of secrets before.").with("maxItems", maxPublicKeys).orNull(),
		},
		Required: []string{"heads"},
		Answers:  map[int]any{http.StatusOK: audit.Report{}},
	})
)

// maxPublicKeys bounds how many keys each signature is tried with.
const maxPublicKeys = 20

func (c *call) listAudit() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := c.h.manager.Audit(c.ctx, c.actor, c.keyspace,
		management.AuditFilter{Key: c.query("key"), Tenant: c.query("tenant"), PageQuery: page})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) getAuditHead() error {
	head, err := c.h.manager.Checkpoint(c.ctx, c.actor, c.keyspace)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, head)
}

// requireWholeChain returns an error for a caller with one keyspace or tenant: the chain covers all of them.
func (c *call) requireWholeChain() error {
	if c.access.Keyspace != "" || c.actor.Tenant != "" {
		return noPath()
	}
	return nil
}

func (c *call) verifyAudit() error {
	if err := c.requireWholeChain(); err != nil {
		return err
	}
	report, err := c.h.manager.VerifyAudit(c.ctx)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}

func (c *call) verifyAuditAgainst() error {
	if err := c.requireWholeChain(); err != nil {
		return err
	}
	o, err := c.body(false)
	if err != nil {
		return err
	}
	heads := field(o, "heads", readHeads)
	keys := field(o, "public_keys", readPublicKeys)
	if len(heads.Value) == 0 && len(o.faults) == 0 {
		o.fault("heads", "must be stated: one head or more, as GET /v1/audit/head answers them")
	}
	if err := o.done(); err != nil {
		return err
	}
	report, err := c.h.manager.VerifyAuditAgainst(c.ctx, heads.Value, keys.Value)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}

func readHeads(raw json.RawMessage, heads *[]audit.Checkpoint) string {
	const must = "must be an array of heads, as GET /v1/audit/head answers them"
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if d.Decode(heads) != nil {
		return must
	}
	if len(*heads) > audit.MaxCheckpoints {
		return "must be at most " + strconv.Itoa(audit.MaxCheckpoints) + " heads at once"
	}
	for _, h := range *heads {
		if h.Store == "" || h.Seq < 0 || h.At.IsZero() {
			return must
		}
	}
	return ""
}

func readPublicKeys(raw json.RawMessage, keys *[]ed25519.PublicKey) string {
	const must = "must be an array of at most 20 Ed25519 public keys, of 32 bytes in base64"
	var texts []string
	if json.Unmarshal(raw, &texts) != nil || len(texts) > maxPublicKeys {
		return must
	}
	for _, t := range texts {
		b, err := base64.StdEncoding.DecodeString(t)
		if err != nil || len(b) != ed25519.PublicKeySize {
			return must
		}
		*keys = append(*keys, b)
	}
	return ""
}
