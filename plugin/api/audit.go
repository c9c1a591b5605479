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
	"github.com/keygate-dev/keygate/plugin/management/checkpoints"
)

const adminOnly = "Only on Caddy's admin endpoint, since one chain covers all keyspaces."

var (
	_ = document("GET /v1/audit", doc{
		Summary: "Lists the events of the audit log, newest first.",
		Query:   map[string]schema{"key": aText("Only events of the key with this id.")},
		Answers: map[int]any{http.StatusOK: management.Page[audit.Record]{}},
	})
	_ = document("GET /v1/audit/head", doc{
		Summary: "Returns the head of the audit chain: a checkpoint of its newest event, signed if a secret is configured.",
		Description: "Keep the head elsewhere: a later verification with it detects a chain that was cut short or rewritten. One chain covers all keyspaces. " +
			"events counts the events of the keyspace. On the admin endpoint, it counts those of all keyspaces if there are several and the query names none.",
		Answers: map[int]any{http.StatusOK: audit.Checkpoint{}},
	})
	_ = document("GET /v1/audit/verify", doc{
		Summary: "Verifies the chain of hashes over all events.", Description: adminOnly,
		Answers: map[int]any{http.StatusOK: audit.Report{}},
	})
	_ = document("POST /v1/audit/verify", doc{
		Summary: "Verifies the chain of hashes over all events, and that it contains the given heads, which were kept elsewhere.", Description: adminOnly,
		Body: fields{
			"heads": aListOf(schema{"$ref": "#/components/schemas/Head"}, "Heads as GET /v1/audit/head returned them.").with("minItems", 1).with("maxItems", audit.MaxCheckpoints),
			"public_keys": aListOf(aText("").with("contentEncoding", "base64"),
				"Further public keys that may have signed the heads, such as those of earlier secrets. The key of this gateway's secret always counts.").with("maxItems", maxPublicKeys).orNull(),
		},
		Required: []string{"heads"},
		Answers:  map[int]any{http.StatusOK: audit.Report{}},
	})
)

// maxPublicKeys bounds the keys against which each signature is checked.
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
	head, err := checkpoints.Current(c.ctx, c.h.manager, c.actor, c.keyspace)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, head)
}

// requireWholeChain returns a 404 for a caller that may see only one keyspace or tenant, since the
// chain covers all of them.
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
		o.fault("heads", "must hold at least one head, as GET /v1/audit/head returns it")
	}
	if err := o.done(); err != nil {
		return err
	}
	report, err := checkpoints.Verify(c.ctx, c.h.manager, heads.Value, keys.Value)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}

func readHeads(raw json.RawMessage, heads *[]audit.Checkpoint) string {
	const must = "must be an array of heads, as GET /v1/audit/head returns them"
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
